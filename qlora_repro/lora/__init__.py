"""Low-rank adapters: which layers get one, putting them there, and counting what trains.

Names are imported when they are first used: `roles` is read by planning, which has no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qlora_repro.lora.adapter import adapters, attach, coverage, head_names, trainable, unfreeze
    from qlora_repro.lora.placement import sites
    from qlora_repro.lora.roles import TARGETS, role_of
    from qlora_repro.quant.select import linear_layers

__all__ = [
    "TARGETS",
    "adapters",
    "attach",
    "coverage",
    "head_names",
    "linear_layers",
    "role_of",
    "sites",
    "trainable",
    "unfreeze",
]
_MODULES = ("roles", "placement", "adapter")  # lightest first; placement knows linear_layers


def __getattr__(name: str) -> Any:
    """Return a name of __all__ from the module that defines it."""
    for module in _MODULES if name in __all__ else ():
        found = import_module(f"{__name__}.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"{__name__} has no {name!r}")
