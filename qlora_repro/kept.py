"""What the cells of one process share: the base as it was loaded, a dataset as it was read.

A worker of a parallel sweep is a process of its own and has its own. Nothing here can change a
number: a base is kept when its adapters came off and left it as it had been, and not otherwise.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from peft import PeftModel
from torch import nn

from qlora_repro.model.checkpointing import disable_checkpointing
from qlora_repro.model.load import Loaded

Made = TypeVar("Made")


class Last(Generic[Made]):
    """The last thing that was made, by name."""

    def __init__(self) -> None:
        self.name = ""
        self.made: Made | None = None

    def get(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what has this name; make it when the last thing had another."""
        if self.made is None or self.name != name:
            self.made = None  # let go first: two datasets at once may be too many
            self.made = make()
            self.name = name
        return self.made


class LastBase:
    """The base model of the last cell, taken by the next one on the same base."""

    def __init__(self) -> None:
        self.name = ""
        self.loaded: Loaded | None = None
        self.was: dict[str, Any] = {}

    def take(self, name: str) -> Loaded | None:
        """Return the base of this name, which is then the caller's; let go of any other."""
        loaded, self.loaded = self.loaded, None
        return loaded if self.name == name else None

    def lend(self, name: str, loaded: Loaded) -> None:
        """Note what a base is like that was just loaded."""
        self.name, self.was = name, _state(loaded.model)

    def give_back(self, name: str, loaded: Loaded) -> None:
        """Keep a base for the next cell if it is what it was, once its adapters are off."""
        model = loaded.model
        if isinstance(model, PeftModel):
            if any(
                getattr(config, "modules_to_save", None) for config in model.peft_config.values()
            ):
                return  # a trained head has taken the place of the untrained one
            base: Any = model.unload()
            for left in ("peft_config", "_hf_peft_config_loaded"):
                base.__dict__.pop(left, None)
        else:
            base = model
        if _checkpointing(base):
            disable_checkpointing(base)
        if "use_cache" in self.was["config"]:  # which training turns off
            base.config.use_cache = self.was["config"]["use_cache"]
        for name_of, parameter in base.named_parameters():
            parameter.requires_grad_(self.was["learns"].get(name_of, False))
            parameter.grad = None
        base.eval()
        if self.name == name and _state(base) == self.was:
            self.loaded = Loaded(model=base, tokenizer=loaded.tokenizer, origin=loaded.origin)


def _state(model: nn.Module) -> dict[str, Any]:
    """Return what a cell could leave behind on a model, weights apart: these are frozen."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    config: Any = model.config
    return {
        "modules": {name: type(module) for name, module in model.named_modules()},
        "forward": [name for name, m in model.named_modules() if "forward" in m.__dict__],
        "training": [name for name, module in model.named_modules() if module.training],
        "hooks": {n: [len(getattr(m, h)) for h in hooks] for n, m in model.named_modules()},
        "learns": {name: p.requires_grad for name, p in model.named_parameters()},
        "held": {name: (p.dtype, p.data_ptr(), p._version) for name, p in model.named_parameters()},
        "checkpointing": _checkpointing(model),
        "config": config.to_dict(),
    }


def _checkpointing(model: nn.Module) -> list[str]:
    """Return the modules that compute their activations twice to save memory."""
    attributes = ("gradient_checkpointing", "activation_checkpointing")
    return [n for n, m in model.named_modules() if any(getattr(m, a, False) for a in attributes)]


BASE = LastBase()
EXAMPLES: Last[Any] = Last()  # (training rows, held-out rows)
ENCODED: Last[Any] = Last()  # training rows in tokens


def forget() -> None:
    """Let go of all that is kept."""
    BASE.loaded = EXAMPLES.made = ENCODED.made = None
