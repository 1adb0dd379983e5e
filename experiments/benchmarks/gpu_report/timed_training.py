"""Training a random model for some steps, and what that took."""

import gc
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from experiments.bench_training import configuration
from experiments.benchmarks.gpu_report.random_llama import build_random_llama
from experiments.step_clock import StepClock
from qlora_repro.config.schema import RunConfig
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.lora import adapter
from qlora_repro.lora.fused import fuse_lora_layers
from qlora_repro.memory.prediction import predict_peak
from qlora_repro.stages.train import choose_collator
from qlora_repro.train.memory import checkpointing_arguments, disable_checkpointing
from qlora_repro.train.trainer import TrainingInputs, TrainResult, train_model

IGNORE = -100
TINY = (  # sizes of a dry run, with the names of the real ones
    *("model.architecture.hidden_size=64", "model.architecture.intermediate_size=128"),
    *("model.architecture.num_hidden_layers=2", "model.architecture.num_attention_heads=2"),
    *("model.architecture.num_key_value_heads=2", "model.architecture.vocab_size=256"),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the parts run."""

    device: torch.device
    tiny: bool
    oversubscribe: bool
    deadline: float  # of time.monotonic()
    folder: Path  # that may be written to

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return 16 if self.tiny else 512

    def seconds_left(self) -> float:
        """Return the seconds that the part still has."""
        return self.deadline - time.monotonic()

    def configure(self, model: str, *overrides: str) -> RunConfig:
        """Return a run's configuration on a model of the paper, on its dry run's sizes if tiny."""
        common = ("data=oasst1", "train.save_steps=0", f"model={model}")
        size = TINY if self.tiny else ()
        rank = ("lora.r=8",) if self.tiny else ()
        device = (f"model.device={self.device.type}",)
        return configuration((*common, *size, *rank, *device, *overrides))  # type: ignore[no-any-return]


@dataclass(kw_only=True)
class Base:
    """A random base that several arms share; adapters come and go."""

    cfg: RunConfig
    model: Any
    seconds: float  # to make it
    names: list[str] = field(default_factory=list)  # of the layers that get adapters


def make_base(bench: Bench, cfg: RunConfig) -> Base:
    """Return a frozen random base."""
    began = time.monotonic()
    model = build_random_llama(cfg, bench.device)
    if bench.cuda:
        torch.cuda.synchronize()
    names = list(adapter.find_lora_targets(model, cfg.lora.target, layers=None))
    return Base(cfg=cfg, model=model, seconds=time.monotonic() - began, names=names)


def free_memory() -> None:
    """Give back what is free, on a GPU to the driver as well."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def random_rows(count: int, *, length: int, vocabulary: int) -> list[EncodedExample]:
    """Return rows of one length, every token of which is trained on but the first."""
    rng = random.Random(0)
    trained = []
    for _ in range(count):
        ids = [rng.randrange(3, vocabulary) for _ in range(length)]
        trained.append(EncodedExample(ids=ids, labels=[IGNORE, *ids[1:]], truncated=False))
    return trained


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What was measured of one training."""

    result: TrainResult
    seconds: list[float]  # of each step; the first warms up
    tokens: int  # of a step
    predicted: int  # bytes
    adapters: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def step(self) -> float:
        """Seconds of the fastest step after the first."""
        return min(self.seconds[1:] or self.seconds)

    @property
    def measured(self) -> int:
        """Bytes: the allocator's peak, and what pages beside it."""
        return self.result.peak_memory + (self.result.paged_memory or 0)


def attach(base: Base, cfg: RunConfig) -> PeftModel:
    """Return the base with fresh adapters, as a run makes them."""
    lora = cfg.lora
    model = adapter.attach_lora(
        base.model,
        base.names,
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        rslora=lora.rslora,
        dtype=lora.dtype,
        seed=cfg.seed,
    )
    if lora.fused:
        fuse_lora_layers(model)
    return model


def detach(base: Base, model: PeftModel) -> None:
    """Take the adapters off again."""
    base.model = model.unload()
    for left in ("peft_config", "_hf_peft_config_loaded"):
        base.model.__dict__.pop(left, None)
    base.model.requires_grad_(False).eval()
    disable_checkpointing(base.model)


def train_arm(
    bench: Bench, base: Base, cfg: RunConfig, *, steps: int, watch: Sequence[Any] = ()
) -> Arm:
    """Train fresh adapters for so many steps through the project's loop."""
    model, clock = attach(base, cfg), StepClock()
    size, vocabulary = cfg.train.batch_size, base.model.config.vocab_size
    rows = random_rows(steps * size, length=bench.length, vocabulary=vocabulary)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        job = TrainingInputs(
            rows=rows,
            collate=choose_collator(
                model,
                Padding,
                kind="causal",
                packing=cfg.train.packing,
                mark_rows=cfg.train.loss_mean == "sequence",
            ),
            compute_dtype=cfg.dtype.compute_dtype,
            seed=cfg.seed,
            folder=Path(folder),
            callbacks=[clock, *watch],
            attention=cfg.model.attention,
        )
        plan = replace(cfg.train, max_steps=steps)
        free_memory()
        result = train_model(model, job, cfg=plan)
    learned = {
        name: weight.detach().cpu().clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    detach(base, model)
    return Arm(
        result=result,
        seconds=clock.seconds,
        tokens=size * bench.length,
        predicted=predict_peak(cfg, length=bench.length, padded=False),
        adapters=learned,
    )


class Padding:
    """Stands in for a tokenizer where rows have one length."""

    pad_token_id = 2


def train_plain_arm(bench: Bench, base: Base, cfg: RunConfig, *, steps: int) -> dict[str, Any]:
    """Train as one writes it with transformers.Trainer and peft; return step seconds and peak.

    PEFT's own layers with float32 adapters under autocast, logits for every position, the model's
    own loss, AdamW of torch.
    """
    rank = {"r": cfg.lora.r, "lora_alpha": int(cfg.lora.alpha), "lora_dropout": cfg.lora.dropout}
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=base.names, **rank)
    model: Any = get_peft_model(base.model, lora)
    clock, size = StepClock(), cfg.train.batch_size
    rows = random_rows(steps * size, length=bench.length, vocabulary=model.config.vocab_size)
    free_memory()
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        settings = TrainingArguments(
            output_dir=folder,
            learning_rate=cfg.train.lr,
            per_device_train_batch_size=cfg.train.micro_batch_size,
            gradient_accumulation_steps=size // cfg.train.micro_batch_size,
            max_steps=steps,
            bf16=bench.cuda,
            **checkpointing_arguments(bool(cfg.train.gradient_checkpointing)),
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not bench.cuda,
        )
        data = [{"input_ids": row.ids, "labels": row.ids} for row in rows]
        Trainer(model, settings, _stack, train_dataset=data, callbacks=[clock]).train()
    peak = torch.cuda.max_memory_allocated() if bench.cuda else None
    model.forward = type(model).forward.__get__(model)
    detach(base, model)
    return {"seconds": clock.seconds, "peak": peak}


def _stack(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return rows of one length as tensors (B, T)."""
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
