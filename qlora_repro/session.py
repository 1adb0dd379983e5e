"""What the cells of one process share: the base as it was loaded, a dataset as it was read.

A worker of a parallel sweep is a process of its own and has its own. Nothing here can change a
number: a base is kept when its adapters came off and left it as it had been, and not otherwise.

The one model of a cell: loaded when a stage first needs it, adapted once, let go at the end.
"""

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from peft import PeftModel
from torch import nn

from qlora_repro.config.schema import ModelConfig, RunConfig
from qlora_repro.console import note, say
from qlora_repro.distributed.environment import processes, rank
from qlora_repro.distributed.fsdp import shard
from qlora_repro.distributed.process_group import Distribute, compute_locally, distribute, together
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.lora import adapter
from qlora_repro.lora.fused import fuse
from qlora_repro.memory.settings import architecture
from qlora_repro.model.device import (
    keep_freed_memory,
    resolve_device,
    return_freed_memory,
    why_no_gpu,
)
from qlora_repro.model.library_logging import quiet
from qlora_repro.model.load import Loaded, load_base, load_empty, load_trained
from qlora_repro.store.cell import ADAPTER, MODEL
from qlora_repro.store.run_id import key
from qlora_repro.train.checkpoint import publish
from qlora_repro.train.memory import disable_checkpointing

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


LARGE = 3e9  # parameters: beyond that a CPU takes minutes a token


def announce_cpu(model: ModelConfig) -> None:
    """Say that a model of the user's choice is about to go to the CPU, as no GPU is seen.

    Raises ConfigError for a large one, unless model.device=cpu asks for it. The embedded and the
    random model are made for CPUs.
    """
    chosen = model.source in ("hub", "local") and model.device == "auto"
    if not chosen or resolve_device("auto").type != "cpu":
        return
    params = 0
    with suppress(ModelError):  # loading has a better sentence for what cannot be read
        params = architecture(model, "none", layers=None)[0].params
    if params > LARGE:
        raise ConfigError(
            f"{model.name} has {params / 1e9:.1f} B parameters, and {why_no_gpu()}; to compute on "
            "the CPU all the same, write model.device=cpu"
        )
    note(f"{why_no_gpu()}; {model.name} goes to the CPU")


class Live:
    """Holds at most one model, so that a sweep's cells do not pile up on a GPU."""

    def __init__(self, cfg: RunConfig, folder: Path) -> None:
        self.cfg = cfg
        self.folder = folder
        self.loaded: Loaded | None = None
        self.sites: dict[str, str] = {}  # adapted module -> role
        self.adapted = False
        self.divided = False  # in shards: no process can use it alone
        self.name = f"{key(cfg, 'untuned')} {cfg.model.device} {cfg.model.attention}"  # of the base
        keep_freed_memory()

    def base(self) -> Loaded:
        """Return the untuned model; it must be asked for before the tuned one."""
        if self.divided:
            self.release()
        assert not self.adapted, "the base was adapted already"
        if self.loaded is None:
            self.loaded = BASE.take(self.name) or self._load()
        return self.loaded

    @property
    def divides(self) -> bool:
        """Whether the base is too large for a process alone, which works on it with the others."""
        return self.cfg.train.sharded and processes() > 1

    @property
    def distribute(self) -> Distribute:
        """How questions are divided among the processes: those that share one model ask all."""
        return compute_locally if processes() == 1 or self.divides else distribute

    def to_score(self, *, tuned: bool) -> Loaded:
        """Return the untuned or the tuned model, to be scored or asked.

        It is not ready yet where there are other processes: `divide` it, in all of them.
        """
        if not self.divides:
            return self.tuned() if tuned else self.base()
        self.begin_training()
        loaded = self.base()
        if not tuned:
            loaded.model.requires_grad_(False)
            return loaded
        return self._with_trained(loaded, trainable=True)  # so that shards leave the adapter whole

    def divide(self, work: str, *, tuned: bool) -> Loaded:
        """Return the model of `to_score`, in shards where it divides; the other ranks work along.

        Where it does not, they hold it whole too. `work` is score or answer.
        """
        assert self.loaded is not None
        if processes() == 1:
            return self.loaded
        if rank() == 0:
            together().order({"work": work, "config": asdict(self.cfg), "tuned": tuned})
        device = resolve_device(self.cfg.model.device)
        together().meet(device)
        if self.divides:
            shard(self.loaded.model, device)
            self.divided = True
        return self.loaded

    def begin_training(self) -> None:
        """Load a base that is to be sharded anew: in rank 0's host memory, empty in the others."""
        if not self.cfg.train.sharded:
            return
        self.release()
        announce_cpu(self.cfg.model)
        say(f"loading {self.cfg.model.name} as {self.cfg.dtype.name}, to be divided")
        model, dtype = replace(self.cfg.model, device="cpu"), self.cfg.dtype
        storage = getattr(torch, dtype.compute_dtype)  # one type all through, as FSDP likes it
        if rank() > 0:
            loaded = load_empty(model, dtype, dq=self.cfg.dq, storage=storage)
        else:
            loaded = load_base(model, dtype, dq=self.cfg.dq, seed=self.cfg.seed, storage=storage)
        device = str(resolve_device(self.cfg.model.device))  # where its parts will be
        self.loaded = replace(loaded, origin=loaded.origin | {"device": device})

    def end_training(self) -> None:
        """Let go of a model that training leaves otherwise than the store has it.

        No process can use one in shards alone, and one with Liger's kernels would go on computing
        with them. `tuned` reads it back.
        """
        if self.cfg.train.sharded or self.cfg.train.kernels != "none":
            self.release()

    def _load(self) -> Loaded:
        announce_cpu(self.cfg.model)
        say(f"loading {self.cfg.model.name} as {self.cfg.dtype.name}")
        loaded = load_base(self.cfg.model, self.cfg.dtype, dq=self.cfg.dq, seed=self.cfg.seed)
        BASE.lend(self.name, loaded)
        return loaded

    def base_or_tuned(self) -> Loaded:
        """Return the model as it is now; it must have been asked for before."""
        assert self.loaded is not None
        return self.loaded

    def trainable(self) -> Loaded:
        """Return the model with fresh adapters, or with every weight unfrozen for lora=none."""
        loaded, cfg = self.base(), self.cfg.lora
        if self.cfg.full_finetuning:
            model: Any = adapter.unfreeze(loaded.model)
        else:
            self.sites = adapter.sites(loaded.model, cfg.target, layers=cfg.layers)
            model = adapter.attach(
                loaded.model,
                list(self.sites),
                r=cfg.r,
                alpha=cfg.alpha,
                dropout=cfg.dropout,
                rslora=cfg.rslora,
                dtype=cfg.dtype,
                seed=self.cfg.seed,
            )
        return self._adapted(model)

    def tuned(self) -> Loaded:
        """Return the model with the trained weights of this run, from memory or from the store."""
        if self.divided:
            self.release()
        if self.adapted and self.loaded is not None:
            return self.loaded
        if self.cfg.full_finetuning:
            announce_cpu(self.cfg.model)
            self.loaded = load_trained(self.cfg.model, self.cfg.dtype, folder=self.folder / MODEL)
            return self._adapted(self.loaded.model)
        return self._with_trained(self.base(), trainable=False)

    def _with_trained(self, loaded: Loaded, *, trainable: bool) -> Loaded:
        """Return the base with this run's adapter from the store."""
        self.sites = adapter.sites(loaded.model, self.cfg.lora.target, layers=self.cfg.lora.layers)
        folder = str(self.folder / ADAPTER)
        model = PeftModel.from_pretrained(loaded.model, folder, is_trainable=trainable)
        adapter.hold_adapters(model, self.cfg.lora.dtype)
        return self._adapted(model)

    def _adapted(self, model: Any) -> Loaded:
        assert self.loaded is not None
        if self.cfg.lora.fused and not self.cfg.full_finetuning:
            fuse(model)
        self.loaded = Loaded(
            model=model, tokenizer=self.loaded.tokenizer, origin=self.loaded.origin
        )
        self.adapted = True
        return self.loaded

    def publish(self) -> Path:
        """Write the trained weights as safetensors, whole or not at all; return their folder."""
        assert self.loaded is not None
        assert self.adapted
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        target = self.folder / (MODEL if self.cfg.full_finetuning else ADAPTER)

        def save(folder: Path) -> None:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        with quiet():
            publish(save, target)
        return target

    def release(self, *, keep: bool = False) -> None:
        """Let go of the model and of the memory that it held; `keep` the base for the next cell."""
        alone = not (self.cfg.full_finetuning or self.cfg.train.sharded)
        if keep and self.loaded is not None and alone:
            BASE.give_back(self.name, self.loaded)
        self.loaded, self.adapted, self.divided = None, False, False
        gc.collect()
        return_freed_memory()
