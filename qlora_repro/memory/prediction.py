"""What a run takes in memory, as a record, and the micro-batch that fits a card.

A run may leave rows in a forward pass and gradient checkpointing open (`auto`). The batch of an
optimizer step, and so its loss, is the same whatever is chosen here.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from qlora_repro.config.schema import RunConfig, TrainConfig
from qlora_repro.errors import QloraError
from qlora_repro.memory.breakdown import bits_per_parameter, inference_memory, training_memory
from qlora_repro.memory.settings import plan_run, usable_bytes
from qlora_repro.records import MemoryPlan
from qlora_repro.store.run_id import stage_digest

MARGIN = 0.9  # of a card's memory, as predictions are to be within a tenth of what is measured
# A pass through a block takes as long, whatever its tokens, as this many products of a weight and a
# token: 4.7 ms at 600 TFLOP/s, as measured on an H100. It decides nothing but what is chosen.
LAUNCH_PRODUCTS = 4.7e-3 * 600e12 / 2


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward pass computes."""

    rows: int
    checkpointing: bool

    def describe(self) -> str:
        """Return it in words.

        >>> MicroBatch(rows=4, checkpointing=False).describe()
        'micro-batch 4 without gradient checkpointing'
        """
        way = "with" if self.checkpointing else "without"
        return f"micro-batch {self.rows} {way} gradient checkpointing"


def is_micro_batch_open(train: TrainConfig) -> bool:
    """Whether the planner is to choose."""
    return "auto" in (train.micro_batch_size, train.gradient_checkpointing)


def choose_micro_batch(
    cfg: RunConfig, memory: int | None, *, length: int | None = None, processes: int = 1
) -> MicroBatch:
    """Return the fastest micro-batch that fits; what the configuration states stays.

    The optimizer's states have to fit too: a paged run is what is left when nothing else is. Where
    nothing fits, or `memory` is None, it is what takes least: one row, with checkpointing.

    Args:
        cfg: The run.
        memory: Bytes of the card; None on a CPU, and for a base that is divided over cards.
        length: Tokens of the longest row, where it is known.
        processes: How many share a batch.
    """
    train = cfg.train
    rows = [n for n in range(1, train.batch_size + 1) if train.batch_size // processes % n == 0]
    candidates = [
        MicroBatch(rows=n, checkpointing=checkpointing)
        for n in (rows if train.micro_batch_size == "auto" else [train.micro_batch_rows])
        for checkpointing in (
            (True, False) if train.gradient_checkpointing == "auto" else [train.uses_checkpointing]
        )
    ]
    if memory is None or len(candidates) == 1:
        return candidates[0]
    run = plan_run(apply_micro_batch(cfg, candidates[0]), length=length)
    block_weights = run.sizes.quantizable / max(1, len(run.sizes.blocks))
    for micro_batch in sorted(
        candidates, key=lambda m: relative_row_time(cfg, m, run.length, block_weights=block_weights)
    ):
        tried = replace(run, rows=micro_batch.rows, checkpointing=micro_batch.checkpointing)
        if training_memory(tried).peak <= MARGIN * memory:
            return micro_batch
    return candidates[0]


def relative_row_time(
    cfg: RunConfig, micro_batch: MicroBatch, length: int, *, block_weights: float
) -> float:
    """Return what a row of `length` tokens takes, in the time of a forward pass over a token.

    A backward pass computes the gradients of activations, and of weights where all of them train;
    with checkpointing the forward pass is computed again. A block of few weights waits for its
    kernels.
    """
    passes = (3 if cfg.full_finetuning else 2) + micro_batch.checkpointing
    return passes * (length + LAUNCH_PRODUCTS / block_weights / micro_batch.rows)


def apply_micro_batch(cfg: RunConfig, micro_batch: MicroBatch) -> RunConfig:
    """Return the configuration to run; what names the run keeps its `auto`."""
    train = replace(
        cfg.train,
        micro_batch_size=micro_batch.rows,
        gradient_checkpointing=micro_batch.checkpointing,
    )
    return replace(cfg, train=train)


def apply_planned_micro_batch(cfg: RunConfig) -> RunConfig:
    """Return the configuration with what is chosen for plan.memory, or for no card: the least."""
    memory = None if cfg.plan.memory is None else usable_bytes(cfg.plan.memory, cfg.plan)
    return apply_micro_batch(cfg, choose_micro_batch(cfg, memory))


def predict_memory(cfg: RunConfig) -> MemoryPlan:
    """Return what a run would take, with an open micro-batch chosen for plan.memory."""
    cfg = apply_planned_micro_batch(cfg)
    run = plan_run(cfg)
    return MemoryPlan(
        run_id=stage_digest(cfg, "train"),
        model=cfg.model.name,
        dtype=run.dtype,
        dq=run.dq,
        stand_in=cfg.scale.stand_in,
        simulated=run.backend == "simulated" and cfg.quantized,
        lora=cfg.lora.target,
        r=None if cfg.full_finetuning else run.r,
        optim=run.optim,
        adapters=cfg.lora.dtype,
        rows=run.rows,
        length=run.length,
        checkpointing=run.checkpointing,
        accumulates=run.accumulates,
        params=run.sizes.params,
        trained=run.trained,
        bits=bits_per_parameter(run),
        **asdict(training_memory(run)),
        **asdict(inference_memory(run)),
    )


def predict_peak(cfg: RunConfig, *, length: int | None = None, padded: bool = True) -> int:
    """Return the peak in bytes of loading the model and training it.

    Args:
        cfg: The run.
        length: Tokens of the longest row, where it is known.
        padded: Whether other rows are shorter.
    """
    return training_memory(replace(plan_run(cfg, length=length), ragged=padded)).peak


def expected_peak(cfg: RunConfig, training: dict[str, Any] | None) -> int | None:
    """Return the peak to expect of a run, for rows as long as the longest that it saw.

    `training` is the run's record. None where it did not train or did not record that length, where
    the base was divided, and where planning fails: a run that is done is not to fail for it.
    """
    if not training or training.get("sharded") or not training.get("longest"):
        return None
    if "micro_batch_size" in training:  # older records lack it
        rows, checkpointing = training["micro_batch_size"], training["gradient_checkpointing"]
        cfg = apply_micro_batch(cfg, MicroBatch(rows=rows, checkpointing=checkpointing))
    try:
        return predict_peak(cfg, length=training["longest"])
    except QloraError:
        return None
