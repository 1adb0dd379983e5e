"""The training loop: one transformers.Trainer, set up from the train section."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import distributed, nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from qlora_repro.config.schema import TrainConfig
from qlora_repro.data.collators import Collator, order_rows
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.distributed.environment import rank, world_size
from qlora_repro.distributed.process_group import process_group
from qlora_repro.errors import ConfigError
from qlora_repro.lora.fused import CastAdaptersOnce, FusedForward
from qlora_repro.model.attention import choose_attention, use_attention
from qlora_repro.model.library_logging import silence_progress_bars
from qlora_repro.train.callbacks import ProgressBar
from qlora_repro.train.checkpoint import (
    CheckpointRotation,
    checkpoint_step,
    explain_full_disk,
    find_newest_checkpoint,
)
from qlora_repro.train.dropout import DropoutSeeding, install_row_dropout
from qlora_repro.train.loss import TargetLoss
from qlora_repro.train.memory import PeakMemory, checkpointing_arguments, explain_out_of_memory
from qlora_repro.train.paging import choose_optimizer, free_pages

DATALOADER_WORKERS = 2  # processes that make batches while a GPU computes
# Of Liger's kernels, those of the loss stay off: loss.py computes it.
LIGER_CONFIG = {"fused_linear_cross_entropy": False, "cross_entropy": False}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step on record."""

    step: int  # from 1
    loss: float  # nats a token, mean over the step's trained tokens
    grad_norm: float | None  # before clipping
    lr: float


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """How the passes were computed."""

    autocast: bool  # accelerate's mixed precision around the model
    fused_layers: int  # LoRA layers that compute in one function of autograd
    tf32: bool  # float32 products of a GPU in TF32
    kernels: str  # none, or liger
    attention: str  # sdpa: torch's kernel; by_length, by_row: see model/attention.py


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training run did."""

    steps: list[Step]
    optim: str  # the optimizer that ran, which on a CPU is not the paged one
    tokens: int  # real tokens in all sequences seen, padding left out
    trained_tokens: int  # those that the loss counted
    padded: float  # share of the positions computed that were padding, [0, 1]
    longest: int  # tokens of the longest row seen
    epochs: float
    seconds: float  # of this process: a resumed run counts from where it resumed
    tokens_per_second: float | None  # real tokens; None when nothing was left to train
    resumed_from: int  # step; 0 for a run that was not interrupted
    micro_batch_size: int  # sequences in a forward pass, of each process
    gradient_checkpointing: bool
    peak_memory: int  # bytes, of rank 0: CUDA allocator, or resident set on a CPU
    paged_memory: int | None  # bytes of paged optimizer states, beside it; None on a CPU
    numerics: Numerics
    processes: int  # that shared each batch
    sharded: bool  # the base was divided among them
    backend: str | None  # gloo or nccl; None for one process


def runnable_optimizer(name: str, *, device: str) -> str:
    """Return the optimizer that can run on a device, by the Trainer's name.

    On a CPU nothing pages, and 8-bit states need CUDA. The fused AdamW takes a third of the time of
    the plain one there, as LoRA has hundreds of tensors.
    """
    if device != "cpu":
        return name
    return "adamw_torch_fused" if name.startswith("paged_") or "8bit" in name else name


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """What a training run needs beside the model and the train section."""

    rows: Sequence[EncodedExample]
    collate: Collator
    compute_dtype: str  # of the forward and backward pass on a GPU: bfloat16, float16 or float32
    seed: int
    folder: Path  # checkpoints go here
    callbacks: Sequence[TrainerCallback] = ()
    attention: str = "auto"  # sdpa: packed rows are kept apart by a mask
    check_held: Callable[[], object] = bool  # raises where another process took the run over


def train_model(model: nn.Module, inputs: TrainingInputs, *, cfg: TrainConfig) -> TrainResult:
    """Train the weights that require a gradient.

    A run that was killed resumes at its newest complete checkpoint and ends with the same weights.

    Args:
        model: Updated in place.
        inputs: Rows, seed, and where checkpoints go.
        cfg: The train section, with no value left at `auto`.

    Raises:
        ConfigError: Kernels that are not installed.
        RunError: The loss is not a number, memory ran out, or the disk is full.
    """
    check_kernels(cfg.kernels)
    rows, folder = inputs.rows, inputs.folder
    device = next(p.device for p in model.parameters() if p.requires_grad)
    optim = runnable_optimizer(cfg.optim, device=device.type)
    order = order_rows(
        [len(row) for row in rows],
        batch_size=cfg.batch_size,
        steps=cfg.max_steps,
        seed=inputs.seed,
        group_by_length=cfg.group_by_length,
    )
    ordered = [rows[i] for i in order]  # of all epochs, one after the other
    batches = [ordered[i : i + cfg.batch_size] for i in range(0, len(ordered), cfg.batch_size)]
    loss = TargetLoss(sequences=cfg.batch_size if cfg.loss_mean == "sequence" else None)
    peak, cast_once = PeakMemory(device), CastAdaptersOnce(model)
    numerics = _choose_numerics(model, cfg, inputs, device=device, fused=cast_once.forwards)
    progress = ProgressBar([sum(map(len, batch)) for batch in batches])
    dropout = DropoutSeeding(
        inputs.seed,
        cfg.batch_size // cfg.micro_batch_rows,
        rows=cfg.micro_batch_rows,
        lengths=list(map(len, ordered)),
        dropouts=install_row_dropout(model, length=max(map(len, rows))),
    )
    rotation = CheckpointRotation(folder, keep=cfg.keep_checkpoints, check=inputs.check_held)
    trainer = Trainer(
        model,
        build_arguments(cfg, inputs, optim=optim, device=device, numerics=numerics),
        inputs.collate,
        train_dataset=cast(Any, ordered),
        compute_loss_func=loss,
        optimizer_cls_and_kwargs=choose_optimizer(cfg, model, device=device.type),
        callbacks=[loss, dropout, cast_once, rotation, peak, progress, *inputs.callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # ProgressBar shows what it prints
    start = find_newest_checkpoint(folder) if rank() == 0 else None
    if world_size() > 1:
        start = process_group().broadcast_path(start)
    start_time = time.monotonic()
    out_of_memory = explain_out_of_memory(model, cfg.micro_batch_rows)
    attention = use_attention(_base_model(model), numerics.attention)
    with restore_forwards(model), attention:
        try:
            with progress, silence_progress_bars(), explain_full_disk(folder), out_of_memory:
                trainer.train(resume_from_checkpoint=None if start is None else str(start))
            seconds, paged_memory = time.monotonic() - start_time, peak.paged_bytes()
            steps = _read_steps(trainer)
        finally:
            # Scores are computed without the mixed precision of training, as they were before it.
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            trainer.optimizer = trainer.lr_scheduler = None
            trainer.accelerator.free_memory()
            free_pages()
    resumed_from = 0 if start is None else checkpoint_step(start)
    processed = sum(map(len, ordered[resumed_from * cfg.batch_size :]))
    return TrainResult(
        steps=steps,
        optim=optim,
        tokens=sum(map(len, ordered)),
        trained_tokens=sum(row.trained for row in ordered),
        padded=0.0 if cfg.packing else _padding_share(ordered, cfg.micro_batch_rows),
        longest=max(map(len, ordered), default=0),
        epochs=len(order) / len(rows),
        seconds=seconds,
        tokens_per_second=processed / seconds if processed else None,
        resumed_from=resumed_from,
        micro_batch_size=cfg.micro_batch_rows,
        gradient_checkpointing=cfg.uses_checkpointing,
        peak_memory=peak.peak_bytes(),
        paged_memory=paged_memory,
        numerics=numerics,
        processes=world_size(),
        sharded=cfg.sharded,
        backend=distributed.get_backend() if world_size() > 1 else None,
    )


class SingleDeviceArguments(TrainingArguments):
    """Arguments of a process that trains on its model's device, however many GPUs it sees."""

    @property
    def n_gpu(self) -> int:
        """At most 1: with more the Trainer would multiply the batch and wrap in DataParallel."""
        return min(1, int(super().n_gpu))

    @property
    def place_model_on_device(self) -> bool:
        """False: it is there already, and one in shards or spread over cards must stay there."""
        return False


def _choose_numerics(
    model: nn.Module,
    cfg: TrainConfig,
    inputs: TrainingInputs,
    *,
    device: torch.device,
    fused: Sequence[FusedForward],
) -> Numerics:
    """Return how the passes are to be computed.

    Mixed precision casts what a layer does not cast itself. Where weights are held in the dtype of
    the passes, or each adapter's layer casts its adapter, nothing is left to cast. A CPU computes
    in the dtype that the weights are held in.
    """
    half_precision = inputs.compute_dtype != "float32" and device.type != "cpu"
    trained = [p for p in model.parameters() if p.requires_grad]
    adapters = {p for f in fused for p in f.layer.parameters() if p.requires_grad}
    layers_cast = bool(fused) and adapters == set(trained)
    same_dtype = all(str(p.dtype) == f"torch.{inputs.compute_dtype}" for p in trained)
    scales_loss = inputs.compute_dtype == "float16"
    return Numerics(
        autocast=half_precision and (scales_loss or not (layers_cast or same_dtype)),
        fused_layers=len(fused),
        tf32=half_precision,
        kernels=cfg.kernels if device.type == "cuda" else "none",
        attention=choose_attention(
            _base_model(model),
            packing=cfg.packing and inputs.attention == "auto",
            dtype=getattr(torch, inputs.compute_dtype),
        ),
    )


def _base_model(model: Any) -> PreTrainedModel:
    """Return the model of transformers without the adapters around it."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return base  # type: ignore[no-any-return]


def build_arguments(
    cfg: TrainConfig,
    inputs: TrainingInputs,
    *,
    optim: str,
    device: torch.device,
    numerics: Numerics,
) -> TrainingArguments:
    """Return the Trainer's arguments: the run's settings, with reports and guesses off."""
    on_gpu = device.type != "cpu"
    return SingleDeviceArguments(
        output_dir=str(inputs.folder),
        optim=optim,
        learning_rate=cfg.lr,
        per_device_train_batch_size=cfg.micro_batch_rows,
        gradient_accumulation_steps=cfg.batch_size // (cfg.micro_batch_rows * world_size()),
        max_steps=cfg.max_steps,
        lr_scheduler_type=cfg.schedule,
        warmup_steps=cfg.warmup_steps,
        max_grad_norm=cfg.max_grad_norm,
        adam_beta2=cfg.beta2,
        weight_decay=cfg.weight_decay,
        **checkpointing_arguments(cfg.uses_checkpointing),
        train_sampling_strategy="sequential",  # rows are in order
        save_strategy="steps" if cfg.save_steps else "no",
        save_steps=cfg.save_steps or 1,
        save_total_limit=None,  # CheckpointRotation deletes
        logging_steps=cfg.log_steps,
        logging_nan_inf_filter=False,
        bf16=inputs.compute_dtype == "bfloat16" and numerics.autocast,
        fp16=inputs.compute_dtype == "float16" and numerics.autocast,
        tf32=numerics.tf32 or None,
        use_liger_kernel=numerics.kernels == "liger",
        liger_kernel_config=LIGER_CONFIG if numerics.kernels == "liger" else None,
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=False,  # every adapter is used in every pass
        ddp_broadcast_buffers=False,  # they are constants
        seed=inputs.seed,
        data_seed=inputs.seed,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=DATALOADER_WORKERS if on_gpu else 0,
    )


def _read_steps(trainer: Trainer) -> list[Step]:
    return [
        Step(
            step=int(entry["step"]),
            loss=entry["loss"],
            grad_norm=entry.get("grad_norm"),
            lr=entry["learning_rate"],
        )
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def _padding_share(rows: Sequence[EncodedExample], size: int) -> float:
    """Return the share of the positions in batches of `size` rows that hold padding."""
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    positions = sum(len(batch) * max(map(len, batch)) for batch in batches)
    return 1 - sum(map(len, rows)) / positions


def check_kernels(kernels: str) -> None:
    """Refuse kernels that are not installed; raises ConfigError."""
    if kernels == "liger" and find_spec("liger_kernel") is None:
        raise ConfigError(
            "train.kernels=liger needs the package liger-kernel, which is not installed; run pip "
            "install -c constraints.txt -e '.[liger]', or use train.kernels=none"
        )


@contextmanager
def restore_forwards(model: nn.Module) -> Iterator[None]:
    """Undo what the body changes in how a model computes.

    Liger replaces functions and classes in the module of transformers that defines a model's class,
    and methods of the model's own layers. Scores, and the next cell of a sweep on the same base,
    would be computed with its kernels whatever their settings.
    """
    library = vars(sys.modules[type(_base_model(model)).__module__])
    original = dict(library)
    methods = {module: _own_methods(module) for module in model.modules()}
    try:
        yield
    finally:
        library.clear()
        library.update(original)
        for module, before in methods.items():
            for name in _own_methods(module).keys() - before.keys():
                delattr(module, name)
            vars(module).update(before)


def _own_methods(module: nn.Module) -> dict[str, Any]:
    """Return the methods that a module has in place of its class's."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and callable(getattr(type(module), name, None))
    }
