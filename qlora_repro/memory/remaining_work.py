"""What a cell still has to run, and how long that takes: by earlier cells, or by operations.

Of operations, products of matrices count, and what a pass through a block takes besides whatever
its tokens, as kernels wait to be started. A product of (m, k) and (k, n) is 2 m k n operations.
Sequences count at full length, which few rows of a dataset have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from qlora_repro.config.schema import EvalConfig, PlanConfig, RunConfig
from qlora_repro.memory.prediction import apply_planned_micro_batch
from qlora_repro.memory.settings import PlannedRun, plan_run
from qlora_repro.store.cell import find_cell
from qlora_repro.store.runs import read_note

TRAINING = "training"  # as store.cell names the stage
TFLOPS_HINT = "plan.tflops=RATE of the card estimates it"


@dataclass(frozen=True, kw_only=True)
class ForwardOperations:
    """Operations of one forward pass over one sequence."""

    base: int  # linear layers of the base model
    adapters: int
    attention: int  # queries with keys, and their weights with values; half of it, as it is causal
    output: int  # logits of the positions that the loss sees

    @property
    def blocks(self) -> int:
        """Operations of all transformer blocks."""
        return self.base + self.adapters + self.attention


def forward_operations(run: PlannedRun) -> ForwardOperations:
    """Return the operations of a forward pass over a sequence of `run.length` tokens."""
    queries = sum(x.n_in for x in run.sizes.linears if x.role == "o")
    return ForwardOperations(
        base=2 * run.sizes.quantizable * run.length,
        adapters=0 if run.full_finetuning else 2 * run.trained * run.length,
        attention=2 * queries * run.length**2,
        output=2 * run.sizes.vocab * run.sizes.hidden * run.loss_positions,
    )


def training_operations(run: PlannedRun) -> int:
    """Return the operations of training on one sequence, forward and backward.

    The backward pass has a product for the gradient of each layer's input, and one for that of its
    weight where it trains: adapters', or all of them. Checkpointing computes the blocks once more.
    """
    forward = forward_operations(run)
    backward = forward.base + 2 * forward.adapters + 2 * forward.attention + forward.output
    weights = forward.base + forward.output if run.full_finetuning else 0
    again = forward.blocks if run.checkpointing else 0
    return forward.blocks + forward.output + backward + weights + again


def scoring_operations(run: PlannedRun) -> int:
    """Return the operations of scoring one sequence: a forward pass."""
    forward = forward_operations(run)
    return forward.blocks + forward.output


def estimate_training_seconds(cfg: RunConfig) -> float | None:
    """Return the seconds of training a cell on one card; None without plan.tflops."""
    if cfg.plan.tflops is None:
        return None
    run = plan_run(apply_planned_micro_batch(cfg))
    rows = cfg.train.max_steps * cfg.train.batch_size
    passes = rows / run.rows * (3 if run.checkpointing else 2)
    return _seconds(cfg.plan, rows * training_operations(run), passes * len(run.sizes.blocks))


def estimate_scoring_seconds(cfg: RunConfig) -> float | None:
    """Return the seconds of scoring a model once on one card; None where it cannot be told.

    Texts have as many tokens as the configuration says. How long questions are is not known before
    they are read: their tokens are those of plan.score_tokens, if it has any.
    """
    tokens, plan = count_text_tokens(cfg.eval), cfg.plan
    if cfg.eval.tasks:
        if plan.score_tokens is None:
            return None
        tokens += plan.score_tokens
    if plan.tflops is None or not tokens:
        return None
    run = plan_run(apply_planned_micro_batch(cfg))
    rows = tokens / run.length
    passes = rows / cfg.eval.batch_size * len(run.sizes.blocks)
    return _seconds(plan, rows * scoring_operations(run), passes)


def count_text_tokens(cfg: EvalConfig) -> int:
    """Return the tokens that windows over a text have together; 0 where none or all is scored."""
    if cfg.perplexity_file is None or cfg.perplexity_tokens is None:
        return 0
    overlap = cfg.perplexity_window / (cfg.perplexity_stride or cfg.perplexity_window)
    return round(cfg.perplexity_tokens * overlap)


def _seconds(plan: PlanConfig, operations: float, block_passes: float) -> float:
    """Return the time of so many operations, and of so many passes through a block."""
    assert plan.tflops is not None
    rate = plan.tflops * 1e12 * plan.utilization
    return operations / rate + block_passes * plan.block_ms / 1e3


@dataclass(frozen=True, kw_only=True)
class RemainingWork:
    """The stages of a cell that are missing, and what they may take on one card."""

    stages: list[str]  # of training and scoring; empty when all is in the store
    measured_seconds: float | None = None  # by earlier cells; None: not known of every stage
    earlier_stages: int = 0  # of earlier cells that this is from
    estimated_seconds: float | None = None  # by operations where no earlier cell tells
    unestimated: Sequence[str] = ()  # stages that the estimate lacks

    @property
    def seconds(self) -> float | None:
        """Seconds by earlier cells, or else by operations."""
        return self.estimated_seconds if self.measured_seconds is None else self.measured_seconds

    def describe(self, usd_per_hour: float | None = None) -> str:
        """Return it as a line, with the price of that time where an hour has one.

        >>> RemainingWork(stages=["training"], measured_seconds=90.0, earlier_stages=3).describe()
        'to run: training; about 90 s, from 3 earlier stages'
        >>> RemainingWork(stages=["training"], estimated_seconds=7200.0).describe(2.5)
        'to run: training; about 2.0 GPU-hours, 5 USD: an estimate, rows at full length'
        >>> RemainingWork(stages=[]).describe()
        'in the store'
        """
        if not self.stages:
            return "in the store"
        price = ""
        if self.seconds is not None and usd_per_hour is not None:
            price = f", {self.seconds / 3600 * usd_per_hour:,.0f} USD"
        time = "time unknown without plan.tflops: no earlier cell is like it"
        if self.measured_seconds is not None:
            duration = format_duration(self.measured_seconds)
            time = f"about {duration}{price}, from {self.earlier_stages} earlier stages"
        elif self.estimated_seconds is not None:
            hours = self.estimated_seconds / 3600
            time = f"about {hours:.1f} GPU-hours{price}: an estimate, rows at full length"
            time += format_unestimated(self.unestimated)
        return f"to run: {', '.join(self.stages)}; {time}"


def format_duration(seconds: float) -> str:
    """Return a time as one reads it.

    >>> format_duration(90), format_duration(1800), format_duration(114_000)
    ('90 s', '30 min', '31.7 h')
    """
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_unestimated(stages: Sequence[str]) -> str:
    """Return what to add to an estimate that lacks some stages.

    >>> format_unestimated(["scores after tuning"])
    '; left out: scores after tuning (plan.score_tokens=N counts them)'
    """
    if not stages:
        return ""
    return f"; left out: {', '.join(stages)} (plan.score_tokens=N counts them)"


def estimate_remaining_work(cfg: RunConfig) -> RemainingWork:
    """Return what training and scoring this cell would still take."""
    stages = find_cell(
        replace(cfg, stages=["train", "eval"] if cfg.train.max_steps else ["eval"])
    ).missing_stages()
    paths = sorted(Path(cfg.results_dir).glob("*/origin-*.json"))
    origins = [origin for path in paths if (origin := read_note(path)) is not None]
    by_earlier = {stage: _median_seconds(cfg, stage, origins) for stage in stages}
    seconds = {stage: s for stage, (s, _) in by_earlier.items() if s is not None}
    earlier_stages = sum(count for _, count in by_earlier.values())
    if len(seconds) == len(stages):
        total = sum(seconds.values())
        return RemainingWork(stages=stages, measured_seconds=total, earlier_stages=earlier_stages)
    for stage in stages:
        estimate = estimate_training_seconds if stage == TRAINING else estimate_scoring_seconds
        if stage not in seconds and (estimated := estimate(cfg)) is not None:
            seconds[stage] = estimated
    return RemainingWork(
        stages=stages,
        earlier_stages=earlier_stages,
        estimated_seconds=sum(seconds.values()) if seconds and cfg.plan.tflops else None,
        unestimated=[stage for stage in stages if stage not in seconds],
    )


def _median_seconds(
    cfg: RunConfig, stage: str, origins: list[dict[str, Any]]
) -> tuple[float | None, int]:
    """Return the median seconds of a stage in cells of this model, and their number.

    Training is scaled by the rows it sees; cells of the same data type count alone, where any are.
    """
    trains = stage == TRAINING
    similar = [
        origin
        for origin in origins
        if origin["config"]["model"]["name"] == cfg.model.name
        and (origin["stage"] == "train") == trains
    ]
    if not trains:
        keys = ("tasks", "n", "limit", "perplexity_file")
        wanted = {k: getattr(cfg.eval, k) for k in keys}
        similar = [o for o in similar if {k: o["config"]["eval"][k] for k in keys} == wanted]
    same = [o for o in similar if o["config"]["dtype"]["name"] == cfg.dtype.name]
    chosen = same or similar
    if not chosen:
        return None, 0
    if not trains:
        return median(origin["seconds"] for origin in chosen), len(chosen)
    per_row = median(o["seconds"] / _trained_rows(o["config"]["train"]) for o in chosen)
    return per_row * cfg.train.max_steps * cfg.train.batch_size, len(chosen)


def _trained_rows(train: dict[str, Any]) -> int:
    return max(1, int(train["max_steps"]) * int(train["batch_size"]))
