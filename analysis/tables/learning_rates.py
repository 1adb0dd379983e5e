"""Learning rates that were tried with a method, and the one that its scores choose."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.artifacts.runs import EvaluatedRun, group_runs, load_evaluated_runs
from analysis.table import Table
from qlora_repro.store.load import type_name

ACCURACIES = ("acc", "exact_match")
PRESET = "finding1_learning_rate"


def build_table(results: Path) -> Table:
    """Return a row a method and rate, of runs that differ in nothing but the rate."""
    grids = _group_grids(load_evaluated_runs(results))
    runs = [run for grid in grids for run in grid]
    tried = [
        "the best of several noisy scores is too good: none is a result",
        *dict.fromkeys(f"{run.model}: {run.note}" for run in runs if run.note),
    ]
    none = [f"no rates were tried; python run.py experiments={PRESET} does"]
    return Table(
        title="Learning rates tried",
        frame=pd.DataFrame([row for grid in grids for row in _rows_of_grid(grid)]),
        notes=[
            "chosen: the rate with the best mean of the scores, of equal ones the smallest; n: "
            "answers a score",
            *(tried if grids else none),
        ],
        runs=tuple(sorted({run.folder for run in runs})),
    )


def _group_grids(runs: Sequence[EvaluatedRun]) -> list[list[EvaluatedRun]]:
    """Return the trained runs of each method that was tried with more than one rate, by rate."""
    tuned = [run for run in runs if run.is_tuned and _accuracies(run)]
    groups = group_runs(tuned, _settings_but_rate)
    return [sorted(group, key=_rate) for group in groups if len(set(map(_rate, group))) > 1]


def _rate(run: EvaluatedRun) -> float:
    return float(run.setting("train.lr"))


def _settings_but_rate(run: EvaluatedRun) -> dict[str, object]:
    return {**run.settings, "train": {**run.setting("train"), "lr": None}}


def _accuracies(run: EvaluatedRun) -> dict[str, pd.Series]:
    """Return task -> accuracy by question."""
    metrics = run.scores_by_metric.items()
    return {task: scores.dropna() for (task, name), scores in metrics if name in ACCURACIES}


def _rows_of_grid(grid: Sequence[EvaluatedRun]) -> Iterator[dict[str, str]]:
    accuracies = [_accuracies(run) for run in grid]
    means = [float(np.mean([s.mean() for s in scores.values()])) for scores in accuracies]
    best = means.index(max(means))  # of equal ones the first, whose rate is the smallest
    chosen = "yes" if 0 < best < len(grid) - 1 else "yes, at the end of the grid"
    for index, (run, scores) in enumerate(zip(grid, accuracies, strict=True)):
        yield {
            "method": label_method(run),
            "learning rate": f"{run.setting('train.lr'):g}",
            "scores": ", ".join(f"{task} {100 * s.mean():.1f}" for task, s in scores.items()),
            "mean, %": f"{100 * means[index]:.1f}",
            "n": ", ".join(f"{len(s):,}" for s in scores.values()),
            "chosen": chosen if index == best else "-",
        }


def label_method(run: EvaluatedRun) -> str:
    """Return what was trained, and in which type the base was."""
    target = str(run.setting("lora.target"))
    trained = "full fine-tuning" if target == "none" else f"LoRA {target}"
    dtype = type_name(str(run.setting("dtype.name")), bool(run.setting("dq")))
    return f"{dtype}, {trained}, {run.model}"
