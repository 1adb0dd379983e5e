"""Low-rank adapters: which layers get one, putting them there, and counting what trains."""

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
