"""What a cell still has to run, and how long that took cells like it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from qlora_repro.config import RunConfig
from qlora_repro.store.done import find_cell
from qlora_repro.store.state import read_note

TRAINING, AFTER, BEFORE = "training", "scores after tuning", "scores before tuning"


@dataclass(frozen=True, kw_only=True)
class Todo:
    """The stages that are missing, and what they may take."""

    stages: list[str]  # of training and scoring; empty when all is in the store
    seconds: float | None  # None: no earlier cell tells
    earlier: int  # cells that the estimate is from

    def words(self) -> str:
        """Return it as a line.

        >>> Todo(stages=["training"], seconds=90.0, earlier=3).words()
        'to run: training; about 90 s, from 3 earlier stages'
        >>> Todo(stages=[], seconds=0.0, earlier=0).words()
        'in the store'
        """
        if not self.stages:
            return "in the store"
        took = "time unknown: no earlier cell is like it"
        if self.seconds is not None:
            took = f"about {self.seconds:.0f} s, from {self.earlier} earlier stages"
        return f"to run: {', '.join(self.stages)}; {took}"


def todo(cfg: RunConfig) -> Todo:
    """Return what training and scoring this cell would still take."""
    asked = replace(cfg, stages=["train", "eval"] if cfg.train.max_steps else ["eval"])
    stages = find_cell(asked).missing()
    origins = list(_origins(Path(cfg.results_dir)))
    found = [_took(cfg, stage, origins) for stage in stages]
    known = [seconds for seconds, _ in found if seconds is not None]
    return Todo(
        stages=stages,
        seconds=sum(known) if len(known) == len(stages) else None,
        earlier=sum(n for _, n in found),
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
