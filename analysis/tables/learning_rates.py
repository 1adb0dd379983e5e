"""Learning rates that were tried with a method, and the one that its scores choose."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis.findings.runs import Run, grouped, load
from analysis.table import Table
from qlora_repro.store.load import type_name

COLUMNS = ("method", "learning rate", "scores", "mean, %", "n", "chosen")
ACCURACIES = ("acc", "exact_match")
PRESET = "finding1_learning_rate"


def build(root: Path) -> Table:
    """Return a row a method and rate, of runs that differ in nothing but the rate."""
    grids = list(_grids(load(root)))
    rows = [row for grid in grids for row in _rows(grid)]
    runs = [run for grid in grids for run in grid]
    return Table(
        title="Learning rates tried",
        frame=pd.DataFrame(rows, columns=list(COLUMNS)),
        notes=[
            "chosen: the rate with the best mean of the scores, of equal ones the smallest; n: "
            "answers a score",
            *(["the best of several noisy scores is too good: none is a result"] if rows else []),
            *dict.fromkeys(f"{run.model}: {run.note}" for run in runs if run.note),
            *([] if rows else [f"no rates were tried; python run.py experiments={PRESET} does"]),
        ],
        runs=tuple(sorted({run.path.parent.name for run in runs})),
    )


def _grids(runs: list[Run]) -> Iterator[list[Run]]:
    """Yield the trained runs of each method that were made with more than one rate, by rate."""
    tuned = [run for run in runs if run.tuned and _scores(run)]
    for group in grouped(tuned, _but_the_rate):
        if len({run.at("train.lr") for run in group}) > 1:
            yield sorted(group, key=lambda run: float(run.at("train.lr")))


def _but_the_rate(run: Run) -> dict[str, object]:
    train = {name: value for name, value in run.at("train").items() if name != "lr"}
    return run.decided | {"train": train}


def _scores(run: Run) -> dict[str, pd.Series]:
    named = [(task, name) for task, name in run.measured() if name in ACCURACIES]
    return {task: run.scores(task, name).dropna() for task, name in named}


def _rows(grid: list[Run]) -> Iterator[dict[str, str]]:
    means = [_mean(run) for run in grid]
    best = means.index(max(means))  # of equal ones the first, whose rate is the smallest
    for place, run in enumerate(grid):
        scores = _scores(run)
        yield {
            "method": named(run),
            "learning rate": f"{run.at('train.lr'):g}",
            "scores": ", ".join(f"{task} {100 * s.mean():.1f}" for task, s in scores.items()),
            "mean, %": f"{100 * means[place]:.1f}",
            "n": ", ".join(f"{len(s):,}" for s in scores.values()),
            "chosen": _chosen(place, best, len(grid)),
        }


def _mean(run: Run) -> float:
    means = [float(score.mean()) for score in _scores(run).values()]
    return sum(means) / len(means)


def _chosen(place: int, best: int, tried: int) -> str:
    if place != best:
        return "-"
    return "yes" if 0 < best < tried - 1 else "yes, at the end of the grid"


def named(run: Run) -> str:
    """Return what was trained, and in which type the base was."""
    target = str(run.at("lora.target"))
    trained = "full fine-tuning" if target == "none" else f"LoRA {target}"
    return f"{type_name(str(run.at('dtype.name')), bool(run.at('dq')))}, {trained}, {run.model}"
