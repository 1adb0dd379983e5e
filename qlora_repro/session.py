"""The model of a cell, and what a sweep's cells in one process pass on to each other.

A `ModelSession` loads a model when a stage first needs it, adapts it once and frees it at the end.
The caches keep the last base and the last dataset for the next cell. They cannot change a number: a
base is kept only if it is as it was loaded once its adapters are off.
"""

import gc
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from torch import nn

from qlora_repro.config.schema import ModelConfig, RunConfig
from qlora_repro.console import note, say
from qlora_repro.data.datasets import add_wrong_answers, load_examples, split_holdout
from qlora_repro.distributed.environment import rank, world_size
from qlora_repro.distributed.fsdp import shard_model
from qlora_repro.distributed.process_group import (
    Distribute,
    compute_locally,
    distribute,
    process_group,
)
from qlora_repro.errors import ConfigError, ModelError, RunError, StoreError
from qlora_repro.judge.win_rates import WinRate
from qlora_repro.lora import adapter
from qlora_repro.lora.fused import fuse_lora_layers
from qlora_repro.memory.settings import read_architecture
from qlora_repro.model.device import (
    explain_missing_gpu,
    keep_freed_memory,
    release_freed_memory,
    resolve_device,
)
from qlora_repro.model.library_logging import silence_transformers
from qlora_repro.model.load import LoadedModel, load_base, load_empty, load_trained
from qlora_repro.quant.finite import find_not_finite
from qlora_repro.records import Example
from qlora_repro.store.cell import ADAPTER, MODEL, Cell
from qlora_repro.store.integrity import describe_incomplete
from qlora_repro.store.run_id import deciding_settings, stage_digest
from qlora_repro.train.callbacks import Tracker
from qlora_repro.train.checkpoint import save_atomically
from qlora_repro.train.memory import disable_checkpointing


class LastValueCache:
    """The last value that was made, by its key."""

    def __init__(self) -> None:
        self.key = ""
        self.value: Any = None

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """Return the value of this key; `make` it when the last one had another."""
        if self.value is None or self.key != key:
            self.value = None  # free it first: two datasets at once may be too many
            self.value = make()
            self.key = key
        return self.value


class BaseModelCache:
    """The base model of the last cell, for the next cell on the same base."""

    def __init__(self) -> None:
        self.key = ""
        self.loaded: LoadedModel | None = None
        self.initial_state: dict[str, Any] = {}

    def acquire(self, key: str) -> LoadedModel | None:
        """Return the base of this key, which is the caller's from now on; free any other."""
        loaded, self.loaded = self.loaded, None
        return loaded if self.key == key else None

    def register(self, key: str, loaded: LoadedModel) -> None:
        """Note the state of a base that was just loaded, to compare it in `release`."""
        self.key, self.initial_state = key, _model_state(loaded.model)

    def release(self, key: str, loaded: LoadedModel) -> None:
        """Keep a base for the next cell if it is as it was loaded, once its adapters are off."""
        model: Any = loaded.model
        if isinstance(model, PeftModel):
            if any(getattr(c, "modules_to_save", None) for c in model.peft_config.values()):
                return  # a trained head has taken the place of the untrained one
            model = model.unload()
            for attribute in ("peft_config", "_hf_peft_config_loaded"):
                model.__dict__.pop(attribute, None)
        if _checkpointed_modules(model):
            disable_checkpointing(model)
        if "use_cache" in self.initial_state["config"]:  # which training turns off
            model.config.use_cache = self.initial_state["config"]["use_cache"]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.initial_state["requires_grad"].get(name, False))
            parameter.grad = None
        model.eval()
        if self.key == key and _model_state(model) == self.initial_state:
            self.loaded = replace(loaded, model=model)


def _model_state(model: nn.Module) -> dict[str, Any]:
    """Return what a cell could leave behind on a model; the weights themselves are frozen."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    config: Any = model.config
    return {
        "modules": {name: type(module) for name, module in model.named_modules()},
        "forward": [name for name, m in model.named_modules() if "forward" in m.__dict__],
        "training": [name for name, module in model.named_modules() if module.training],
        "hooks": {n: [len(getattr(m, h)) for h in hooks] for n, m in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "weights": {n: (p.dtype, p.data_ptr(), p._version) for n, p in model.named_parameters()},
        "checkpointing": _checkpointed_modules(model),
        "config": config.to_dict(),
    }


def _checkpointed_modules(model: nn.Module) -> list[str]:
    """Return the modules that compute their activations twice to save memory."""
    attributes = ("gradient_checkpointing", "activation_checkpointing")
    return [n for n, m in model.named_modules() if any(getattr(m, a, False) for a in attributes)]


BASE_MODEL = BaseModelCache()
EXAMPLES = LastValueCache()  # (training examples, held-out examples)
ENCODED_ROWS = LastValueCache()  # training rows in tokens


def clear_caches() -> None:
    """Free the base model and the datasets that are kept for the next cell."""
    BASE_MODEL.loaded = EXAMPLES.value = ENCODED_ROWS.value = None


def load_rows(cfg: RunConfig) -> tuple[list[Example], list[Example]]:
    """Return (training rows, held-out rows), as far as the stages need any."""
    if not (cfg.train.max_steps and "train" in cfg.stages) and not cfg.data.holdout:
        return [], []

    def read_rows() -> tuple[list[Example], list[Example]]:
        examples = load_examples(cfg.data)
        training, held_out = split_holdout(examples, holdout=cfg.data.holdout, seed=cfg.data.seed)
        return add_wrong_answers(training, share=cfg.data.wrong, seed=cfg.data.seed), held_out

    rows: tuple[list[Example], list[Example]] = EXAMPLES.get(data_key(cfg), read_rows)
    return rows


def data_key(cfg: RunConfig) -> str:
    """Return what names the examples of a run: equal keys, equal examples."""
    return json.dumps(
        [deciding_settings(cfg, "train")["data"], cfg.data.max_truncated], sort_keys=True
    )


LARGE_ON_CPU = 3e9  # parameters: beyond that a CPU takes minutes a token


def check_cpu_use(model: ModelConfig) -> None:
    """Say that a model of the user's choice is about to go to the CPU, as no GPU is seen.

    Raises ConfigError for a large one, unless model.device=cpu asks for it. The embedded and the
    random model are made for CPUs.
    """
    chosen = model.source in ("hub", "local") and model.device == "auto"
    if not chosen or resolve_device("auto").type != "cpu":
        return
    params = 0
    with suppress(ModelError):  # loading has a better sentence for what cannot be read
        params = read_architecture(model, "none", layers=None)[0].params
    if params > LARGE_ON_CPU:
        raise ConfigError(
            f"{model.name} has {params / 1e9:.1f} B parameters, and {explain_missing_gpu()}; to "
            "compute on the CPU all the same, write model.device=cpu"
        )
    note(f"{explain_missing_gpu()}; {model.name} goes to the CPU")


class ModelSession:
    """Holds at most one model, so that a sweep's cells do not pile up on a GPU.

    As a context manager it frees the model at its end, and keeps the base for the next cell unless
    an error ended it.
    """

    def __init__(self, cfg: RunConfig, folder: Path) -> None:
        self.cfg = cfg
        self.folder = folder
        self.loaded: LoadedModel | None = None
        self.adapted_layers: dict[str, str] = {}  # adapted module -> role
        self.adapted = False
        self.in_shards = False  # no process can use the model alone
        self.base_key = f"{stage_digest(cfg, 'untuned')} {cfg.model.device} {cfg.model.attention}"
        keep_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Free the model."""
        self.release(keep_base=kind is None)

    @property
    def sharded(self) -> bool:
        """Whether the processes share one model, each with a part of the base."""
        return self.cfg.train.sharded and world_size() > 1

    @property
    def distribute(self) -> Distribute:
        """How questions are spread over processes: those that share one model answer all."""
        return compute_locally if world_size() == 1 or self.sharded else distribute

    def base(self) -> LoadedModel:
        """Return the untuned model; it must be asked for before the tuned one."""
        if self.in_shards:
            self.release()
        assert not self.adapted, "the base was adapted already"
        if self.loaded is None:
            self.loaded = BASE_MODEL.acquire(self.base_key) or self._load_base()
        return self.loaded

    def trainable(self) -> LoadedModel:
        """Return the model with fresh adapters, or with every weight unfrozen for lora=none."""
        loaded, cfg = self.base(), self.cfg.lora
        if self.cfg.full_finetuning:
            return self._use_adapted(adapter.unfreeze_base(loaded.model))
        self.adapted_layers = adapter.find_lora_targets(loaded.model, cfg.target, layers=cfg.layers)
        model = adapter.attach_lora(
            loaded.model,
            list(self.adapted_layers),
            r=cfg.r,
            alpha=cfg.alpha,
            dropout=cfg.dropout,
            rslora=cfg.rslora,
            dtype=cfg.dtype,
            seed=self.cfg.seed,
        )
        return self._use_adapted(model)

    def tuned(self) -> LoadedModel:
        """Return the model with the trained weights of this run, from memory or from the store."""
        if self.in_shards:
            self.release()
        if self.adapted and self.loaded is not None:
            return self.loaded
        if self.cfg.full_finetuning:
            check_cpu_use(self.cfg.model)
            self.loaded = load_trained(
                self.cfg.model, self.cfg.dtype, folder=self._verify_weights(MODEL)
            )
            return self._use_adapted(self.loaded.model)
        return self._load_adapter(self.base(), trainable=False)

    def current(self) -> LoadedModel:
        """Return the model as it is now; it must have been loaded before."""
        assert self.loaded is not None
        return self.loaded

    def load_for_inference(self, *, tuned: bool) -> LoadedModel:
        """Return the untuned or the tuned model, to be evaluated or asked.

        Among several processes it is ready only after `start_inference`, called in all of them.
        """
        if not self.sharded:
            return self.tuned() if tuned else self.base()
        self.load_for_training()
        loaded = self.base()
        if not tuned:
            loaded.model.requires_grad_(False)
            return loaded
        return self._load_adapter(loaded, trainable=True)  # so that sharding leaves it whole

    def start_inference(self, stage: str, *, tuned: bool) -> LoadedModel:
        """Return the model of `load_for_inference`, with the workers ready to compute along.

        Rank 0 calls the workers to `stage`. A sharded model is divided among the processes here;
        any other is in each of them.
        """
        loaded = self.current()
        if world_size() == 1:
            return loaded
        if rank() == 0:
            process_group().send_task({"stage": stage, "config": asdict(self.cfg), "tuned": tuned})
        device = resolve_device(self.cfg.model.device)
        process_group().connect(device)
        if self.sharded:
            shard_model(loaded.model, device)
            self.in_shards = True
        return loaded

    def load_for_training(self) -> None:
        """Load a base that is to be sharded anew: in rank 0's host memory, empty in the others."""
        if not self.cfg.train.sharded:
            return
        self.release()
        check_cpu_use(self.cfg.model)
        say(f"loading {self.cfg.model.name} as {self.cfg.dtype.name}, to be divided")
        model, dtype = replace(self.cfg.model, device="cpu"), self.cfg.dtype
        storage = getattr(torch, dtype.compute_dtype)  # FSDP wants one type all through
        if rank() > 0:
            loaded = load_empty(model, dtype, dq=self.cfg.dq, storage=storage)
        else:
            loaded = load_base(model, dtype, dq=self.cfg.dq, seed=self.cfg.seed, storage=storage)
        device = str(resolve_device(self.cfg.model.device))  # where its shards will be
        self.loaded = replace(loaded, origin=loaded.origin | {"device": device})

    def finish_training(self) -> None:
        """Free a model that training leaves otherwise than the store has it.

        No process can use one in shards alone, and one with Liger's kernels would go on computing
        with them. `tuned` reads it back.
        """
        if self.cfg.train.sharded or self.cfg.train.kernels != "none":
            self.release()

    def publish(self, check_held: Callable[[], object] = bool) -> Path:
        """Write the trained weights as safetensors, complete or not at all; return their folder.

        Before they take their place, `check_held` may raise.
        """
        assert self.adapted
        loaded = self.current()
        trained = ((n, w) for n, w in loaded.model.named_parameters() if w.requires_grad)
        if names := find_not_finite(trained):
            raise RunError(f"training left NaN or infinity in {names[0]}; lower train.lr")
        target = self.folder / (MODEL if self.cfg.full_finetuning else ADAPTER)

        def save(folder: Path) -> None:
            loaded.model.save_pretrained(folder)
            loaded.tokenizer.save_pretrained(folder)

        with silence_transformers():
            save_atomically(save, target, check_held)
        return target

    def release(self, *, keep_base: bool = False) -> None:
        """Free the model and the memory that it held; with `keep_base` the next cell gets it."""
        reusable = not (self.cfg.full_finetuning or self.cfg.train.sharded)
        if keep_base and self.loaded is not None and reusable:
            BASE_MODEL.release(self.base_key, self.loaded)
        self.loaded, self.adapted, self.in_shards = None, False, False
        gc.collect()
        release_freed_memory()

    def _load_base(self) -> LoadedModel:
        check_cpu_use(self.cfg.model)
        say(f"loading {self.cfg.model.name} as {self.cfg.dtype.name}")
        loaded = load_base(self.cfg.model, self.cfg.dtype, dq=self.cfg.dq, seed=self.cfg.seed)
        BASE_MODEL.register(self.base_key, loaded)
        return loaded

    def _verify_weights(self, name: str) -> Path:
        """Return the folder of the trained weights, each byte compared with its checksum."""
        folder = self.folder / name
        if reason := describe_incomplete(folder):
            raise StoreError(f"{folder} {reason}; add train to stages, which trains it again")
        return folder

    def _load_adapter(self, loaded: LoadedModel, *, trainable: bool) -> LoadedModel:
        """Return the base with this run's adapter from the store."""
        self.adapted_layers = adapter.find_lora_targets(
            loaded.model, self.cfg.lora.target, layers=self.cfg.lora.layers
        )
        folder = self._verify_weights(ADAPTER)
        layers = list(self.adapted_layers)
        model = adapter.load_adapter(loaded.model, folder, layers, trainable=trainable)
        adapter.cast_adapters(model, self.cfg.lora.dtype)
        return self._use_adapted(model)

    def _use_adapted(self, model: Any) -> LoadedModel:
        if self.cfg.lora.fused and not self.cfg.full_finetuning:
            fuse_lora_layers(model)
        self.loaded = replace(self.current(), model=model)
        self.adapted = True
        return self.loaded


@dataclass
class CellRun:
    """What the stages of one cell share while it runs."""

    cell: Cell
    session: ModelSession
    tracker: Tracker
    win_rates: list[WinRate] = field(default_factory=list)  # what a judge finds, an opponent each
