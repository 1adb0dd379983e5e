"""The one training loop: sections of the configuration to one transformers.Trainer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from qlora_repro.config.schema import TrainConfig
from qlora_repro.data.collators import Collate, order
from qlora_repro.data.tokenization import Row
from qlora_repro.distributed.environment import processes, rank
from qlora_repro.distributed.process_group import together
from qlora_repro.lora.fused import CastOnce, FusedForward
from qlora_repro.model.library_logging import without_bars
from qlora_repro.train.callbacks import ShowProgress
from qlora_repro.train.checkpoint import (
    KeepWhole,
    naming_full_disk,
    newest_whole_checkpoint,
    step_of,
)
from qlora_repro.train.dropout import DropoutDraw, draw_by_row
from qlora_repro.train.kernels import LOSSES, check_kernels, library_restored
from qlora_repro.train.loss import TargetLoss
from qlora_repro.train.memory import MemoryPeak, checkpointing_arguments, naming_lack_of_memory
from qlora_repro.train.paging import choose_optimizer, free_pages

WORKERS = 2  # processes that make the next batches while a GPU computes


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step as it went on record."""

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
    seconds: float  # of this process: a resumed run counts from where it was taken up
    tokens_per_second: float | None  # real tokens; None when nothing was left to train
    resumed_from: int  # step; 0 for a run in one go
    micro_batch_size: int  # sequences in a forward pass, of each process
    gradient_checkpointing: bool
    peak_memory: int  # bytes, of rank 0: CUDA allocator, or resident set on a CPU
    paged_memory: int | None  # bytes beside it of states that page; None on a CPU
    numerics: Numerics
    processes: int  # that trained on one batch together
    sharded: bool  # the base lay divided among them
    backend: str | None  # by which they met: gloo or nccl; None for one process alone


class Rows(Dataset[Row]):
    """The rows in the order in which training sees them, end to end over all epochs."""

    def __init__(self, rows: Sequence[Row], sequence: Sequence[int]) -> None:
        self.rows = rows
        self.sequence = sequence

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, index: int) -> Row:
        return self.rows[self.sequence[index]]


def runnable_optim(name: str, *, device: str) -> str:
    """Return the optimizer that can run: nothing pages on a CPU, and 8-bit states need CUDA.

    The fused AdamW takes a third of the time of the plain one there: LoRA has hundreds of tensors.
    """
    if device != "cpu":
        return name
    return "adamw_torch_fused" if name.startswith("paged_") or "8bit" in name else name


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a training run needs beside the model and the train section."""

    rows: Sequence[Row]
    collate: Collate
    compute_dtype: str  # of the forward and backward pass on a GPU: bfloat16, float16 or float32
    seed: int
    folder: Path  # checkpoints go here
    watch: Sequence[TrainerCallback] = ()


def train(model: nn.Module, job: Job, *, cfg: TrainConfig) -> TrainResult:
    """Train the weights that want a gradient; return what was done.

    A run that was killed is taken up at its newest whole checkpoint and ends with the same weights.
    Raises RunError for a loss that is not a number, for lack of memory and for a full disk.
    """
    check_kernels(cfg.kernels)
    rows, folder = job.rows, job.folder
    device = next(p.device for p in model.parameters() if p.requires_grad)
    optim = runnable_optim(cfg.optim, device=device.type)
    sequence = order(
        [len(row) for row in rows],
        batch_size=cfg.batch_size,
        steps=cfg.max_steps,
        seed=job.seed,
        group_by_length=cfg.group_by_length,
    )
    seen = [rows[i] for i in sequence]
    batches = [seen[i : i + cfg.batch_size] for i in range(0, len(seen), cfg.batch_size)]
    loss = TargetLoss(sequences=cfg.batch_size if cfg.loss_mean == "sequence" else None)
    peak, cast = MemoryPeak(device), CastOnce(model)
    numerics = _numerics(model, cfg, job, device=device, fused=cast.forwards)
    progress = ShowProgress([sum(map(len, batch)) for batch in batches])
    dropout = DropoutDraw(
        job.seed,
        cfg.batch_size // cfg.rows,
        rows=cfg.rows,
        dropouts=draw_by_row(model, length=max(map(len, rows))),
    )
    keep = KeepWhole(folder, keep=cfg.keep_checkpoints)
    trainer = Trainer(
        model,
        arguments(cfg, job, optim=optim, device=device, numerics=numerics),
        job.collate,
        train_dataset=Rows(rows, sequence),
        compute_loss_func=loss,
        optimizer_cls_and_kwargs=choose_optimizer(cfg, model, device=device.type),
        callbacks=[loss, dropout, cast, keep, peak, progress, *job.watch],
    )
    trainer.remove_callback(PrinterCallback)  # ShowProgress says it
    start = newest_whole_checkpoint(folder) if rank() == 0 else None
    if processes() > 1:
        start = together().agreed(start)
    began = time.monotonic()
    lack_of_memory = naming_lack_of_memory(model, cfg.rows)
    try:
        library = library_restored(model)
        with progress, without_bars(), naming_full_disk(folder), lack_of_memory, library:
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
        seconds, paged = time.monotonic() - began, peak.paged()
        steps = _steps(trainer)
    finally:
        # Scores are computed without the mixed precision of training, as they were before it.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.accelerator.free_memory()
        free_pages()
    resumed = 0 if start is None else step_of(start)
    here = sum(map(len, seen[resumed * cfg.batch_size :]))
    return TrainResult(
        steps=steps,
        optim=optim,
        tokens=sum(map(len, seen)),
        trained_tokens=sum(row.trained for row in seen),
        padded=0.0 if cfg.packing else _padded(seen, cfg.rows),
        longest=max(map(len, seen), default=0),
        epochs=len(sequence) / len(rows),
        seconds=seconds,
        tokens_per_second=here / seconds if here else None,
        resumed_from=resumed,
        micro_batch_size=cfg.rows,
        gradient_checkpointing=cfg.checkpoints,
        peak_memory=peak.bytes(),
        paged_memory=paged,
        numerics=numerics,
        processes=processes(),
        sharded=cfg.sharded,
        backend=distributed.get_backend() if processes() > 1 else None,
    )


class OneDevice(TrainingArguments):
    """Arguments of a process that trains on its model's device, however many GPUs it sees."""

    @property
    def n_gpu(self) -> int:
        """At most 1: with more the Trainer would multiply the batch and wrap in DataParallel."""
        return min(1, int(super().n_gpu))

    @property
    def place_model_on_device(self) -> bool:
        """False: it is there already, and one in shards or spread over cards must stay there."""
        return False


def _numerics(
    model: nn.Module,
    cfg: TrainConfig,
    job: Job,
    *,
    device: torch.device,
    fused: Sequence[FusedForward],
) -> Numerics:
    """Return how the passes are to be computed.

    Mixed precision casts what a layer does not cast itself. Where weights are held in the dtype of
    the passes and each adapter's layer casts its adapter, nothing is left to cast. A CPU computes
    in the dtype that the weights are held in.
    """
    halves = job.compute_dtype != "float32" and device.type != "cpu"
    learning = [p for p in model.parameters() if p.requires_grad]
    adapters = {p for f in fused for p in f.layer.parameters() if p.requires_grad}
    cast_already = bool(fused) and adapters == set(learning)
    held = all(str(p.dtype) == f"torch.{job.compute_dtype}" for p in learning)
    scales_loss = job.compute_dtype == "float16"
    return Numerics(
        autocast=halves and (scales_loss or not (cast_already or held)),
        fused_layers=len(fused),
        tf32=halves,
        kernels=cfg.kernels if device.type == "cuda" else "none",
    )


def arguments(
    cfg: TrainConfig, job: Job, *, optim: str, device: torch.device, numerics: Numerics
) -> TrainingArguments:
    """Return the Trainer's arguments: the paper's settings, and nothing that talks or guesses."""
    on_gpu = device.type != "cpu"  # a CPU computes in the dtype that the weights are held in
    return OneDevice(
        output_dir=str(job.folder),
        optim=optim,
        learning_rate=cfg.lr,
        per_device_train_batch_size=cfg.rows,
        gradient_accumulation_steps=cfg.batch_size // (cfg.rows * processes()),
        max_steps=cfg.max_steps,
        lr_scheduler_type=cfg.schedule,
        warmup_steps=cfg.warmup_steps,
        max_grad_norm=cfg.max_grad_norm,
        adam_beta2=cfg.beta2,
        weight_decay=cfg.weight_decay,
        **checkpointing_arguments(cfg.checkpoints),
        train_sampling_strategy="sequential",  # the order is fixed in data/order.py
        save_strategy="steps" if cfg.save_steps else "no",
        save_steps=cfg.save_steps or 1,
        save_total_limit=None,  # KeepWhole deletes, once the newer one is whole
        logging_steps=cfg.log_steps,
        logging_nan_inf_filter=False,
        bf16=job.compute_dtype == "bfloat16" and numerics.autocast,
        fp16=job.compute_dtype == "float16" and numerics.autocast,
        tf32=numerics.tf32 or None,
        use_liger_kernel=numerics.kernels == "liger",
        liger_kernel_config=LOSSES if numerics.kernels == "liger" else None,
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=False,  # every adapter is used in every pass
        ddp_broadcast_buffers=False,  # they are constants
        seed=job.seed,
        data_seed=job.seed,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=WORKERS if on_gpu else 0,
    )


def _steps(trainer: Trainer) -> list[Step]:
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


def _padded(seen: Sequence[Row], size: int) -> float:
    """Share of the positions in batches of `size` that hold padding."""
    batches = [seen[i : i + size] for i in range(0, len(seen), size)]
    computed = sum(len(batch) * max(map(len, batch)) for batch in batches)
    return 1 - sum(map(len, seen)) / computed
