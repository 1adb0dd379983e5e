"""What a cell still has to run, and how long that took cells like it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.operations import scoring_seconds, training_seconds
from qlora_repro.store.cell import find_cell
from qlora_repro.store.progress import read_note

TRAINING, AFTER, BEFORE = "training", "scores after tuning", "scores before tuning"
ASK = "plan.tflops=RATE of the card estimates it"


@dataclass(frozen=True, kw_only=True)
class Todo:
    """The stages that are missing, and what they may take on one card."""

    stages: list[str]  # of training and scoring; empty when all is in the store
    seconds: float | None  # by earlier cells; None: of some stage no earlier cell tells
    earlier: int  # stages of earlier cells that this is from
    estimate: float | None = None  # s, by operations where no earlier cell tells; None: not asked
    left_out: Sequence[str] = ()  # stages that the estimate lacks

    @property
    def best(self) -> float | None:
        """Seconds by earlier cells, or else by operations."""
        return self.estimate if self.seconds is None else self.seconds

    def words(self, usd_per_hour: float | None = None) -> str:
        """Return it as a line, with the price of that time where an hour has one.

        >>> Todo(stages=["training"], seconds=90.0, earlier=3).words()
        'to run: training; about 90 s, from 3 earlier stages'
        >>> Todo(stages=["training"], seconds=None, earlier=0, estimate=7200.0).words(2.5)
        'to run: training; about 2.0 GPU-hours, 5 USD: an estimate, rows at full length'
        >>> Todo(stages=[], seconds=0.0, earlier=0).words()
        'in the store'
        """
        if not self.stages:
            return "in the store"
        price = spell_price(self.best, usd_per_hour)
        took = "time unknown without plan.tflops: no earlier cell is like it"
        if self.seconds is not None:
            took = f"about {spell_time(self.seconds)}{price}, from {self.earlier} earlier stages"
        elif self.estimate is not None:
            took = f"about {self.estimate / 3600:.1f} GPU-hours{price}: an estimate, rows at full "
            took += f"length{spell_left_out(self.left_out)}"
        return f"to run: {', '.join(self.stages)}; {took}"


def spell_time(seconds: float) -> str:
    """Return a time as one reads it.

    >>> spell_time(90), spell_time(1800), spell_time(114_000)
    ('90 s', '30 min', '31.7 h')
    """
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def spell_price(seconds: float | None, usd_per_hour: float | None) -> str:
    """Return a price to set behind a time, if there is one.

    >>> spell_price(7200, 2.5), spell_price(7200, None)
    (', 5 USD', '')
    """
    if seconds is None or usd_per_hour is None:
        return ""
    return f", {seconds / 3600 * usd_per_hour:,.0f} USD"


def spell_left_out(stages: Sequence[str]) -> str:
    """Return what to set behind an estimate that lacks some stages.

    >>> spell_left_out([AFTER])
    '; left out: scores after tuning (plan.score_tokens=N counts them)'
    """
    if not stages:
        return ""
    return f"; left out: {', '.join(stages)} (plan.score_tokens=N counts them)"


def todo(cfg: RunConfig) -> Todo:
    """Return what training and scoring this cell would still take."""
    asked = replace(cfg, stages=["train", "eval"] if cfg.train.max_steps else ["eval"])
    stages = find_cell(asked).missing()
    origins = list(_origins(Path(cfg.results_dir)))
    by_earlier = {stage: _took(cfg, stage, origins) for stage in stages}
    known = {stage: seconds for stage, (seconds, _) in by_earlier.items() if seconds is not None}
    earlier = sum(count for _, count in by_earlier.values())
    if len(known) == len(stages):
        return Todo(stages=stages, seconds=sum(known.values()), earlier=earlier)
    for stage in stages:
        seconds = training_seconds(cfg) if stage == TRAINING else scoring_seconds(cfg)
        if stage not in known and seconds is not None:
            known[stage] = seconds
    return Todo(
        stages=stages,
        seconds=None,
        earlier=earlier,
        estimate=sum(known.values()) if known and cfg.plan.tflops is not None else None,
        left_out=[stage for stage in stages if stage not in known],
    )


def _origins(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(root.glob("*/origin-*.json")):
        note = read_note(path)
        if note is not None:
            yield note


def _took(cfg: RunConfig, stage: str, origins: list[dict[str, Any]]) -> tuple[float | None, int]:
    """Return the median seconds of a stage in cells of this model, and their number.

    Training is scaled by the rows it sees; cells of the same data type count alone, where any are.
    """
    trains = stage == TRAINING
    like = [o for o in origins if o["config"]["model"]["name"] == cfg.model.name]
    like = [o for o in like if (o["stage"] == "train") == trains]
    if not trains:
        asked = (cfg.eval.tasks, cfg.eval.n, cfg.eval.limit, cfg.eval.perplexity_file)
        keys = ("tasks", "n", "limit", "perplexity_file")
        like = [o for o in like if tuple(o["config"]["eval"][k] for k in keys) == asked]
    same = [o for o in like if o["config"]["dtype"]["name"] == cfg.dtype.name]
    chosen = same or like
    if not chosen:
        return None, 0
    scales = [_rows(o["config"]["train"]) if trains else 1 for o in chosen]
    each = median(o["seconds"] / scale for o, scale in zip(chosen, scales, strict=True))
    rows = cfg.train.max_steps * cfg.train.batch_size if trains else 1
    return each * rows, len(chosen)


def _rows(train: dict[str, Any]) -> int:
    return max(1, int(train["max_steps"]) * int(train["batch_size"]))
