"""Figure 3: mean zero-shot accuracy against the bits of the whole model, as a table.

Beside each data type stands how far NF4 is from it on the same questions, and how many questions
would tell more.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.power import TTestPower

from analysis.artifacts.runs import add_run_facts, list_folders, list_run_notes, load_evaluated_runs
from analysis.paper_tables import LLAMA_MODELS, load_cells
from analysis.table import Table, format_interval
from qlora_repro.stats.estimates import average_estimates, estimate_mean
from qlora_repro.stats.intervals import Array, normal_interval
from qlora_repro.store.load import load_metrics, load_settings, type_name

STEM = "fig3_zeroshot_by_bits"
TASKS = ("winogrande", "hellaswag", "piqa", "arc_easy", "arc_challenge")
METRIC = "acc"  # the paper does not say whether it is normalized by length
POINT, ALPHA, POWER = 0.01, 0.05, 0.8  # the difference in question, and how surely it is to show
AGAINST, NEEDED = "NF4 against it", "questions to tell 1 point"
Scores = Mapping[str, pd.Series]  # task -> a score a question


def build_table(results: Path) -> Table:
    """Return a row a model and data type; the figure's points are not known, its axis is."""
    points, axis = load_points(results), load_cells(STEM)
    accuracies = {
        (run.run_id, run.digest): {
            task: scores for (task, name), scores in run.scores_by_metric.items() if name == METRIC
        }
        for run in load_evaluated_runs(results)
    }
    ordered = points if points.empty else points.sort_values(["model", "bits"])
    rows = [_row(point, points, accuracies) for point in ordered.to_dict("records")]
    low, high = (axis["accuracy axis", end] for end in ("from", "to"))
    return Table(
        title="Figure 3: zero-shot accuracy by bits of the whole model, nothing trained",
        frame=pd.DataFrame(rows),
        notes=[
            f"paper: its points were never printed; its axis runs from {low:g} to {high:g} %",
            f"ours: mean of the tasks asked, of {', '.join(TASKS)}; interval: 95%, over questions",
            "NF4 against it: points on the same questions; NF4 with as much quantized, NF4 + DQ "
            "with NF4; the last column: how many such questions show a true point in 4 of 5 cases",
            *([] if rows else [f"no run has scores; python run.py experiments={STEM} makes them"]),
            *list_run_notes(points),
            *_list_limits(points, results),
        ],
        runs=list_folders(points),
    )


def load_points(results: Path) -> pd.DataFrame:
    """Return a row a model and type: its run's facts, `model_bits`, mean, stderr, tasks, questions.

    A model that was not asked every task that another was is left out, so that means compare.
    """
    metrics = add_run_facts(load_metrics(results), results)
    if metrics.empty:
        return metrics
    metrics = metrics.assign(task=metrics["task"].map(benchmark_of))
    asked = metrics[metrics["task"].notna() & (metrics["name"] == METRIC) & metrics["lora"].isna()]
    asked = asked.drop_duplicates(["folder", "task"])
    by_run = asked.groupby("folder", sort=False)
    points = asked.drop_duplicates("folder").set_index("folder", drop=False)
    points = points.assign(
        bits=points["model_bits"],
        mean=by_run["value"].mean(),
        stderr=by_run["stderr"].agg(lambda errors: (errors**2).sum() ** 0.5 / len(errors)),
        tasks=by_run.size(),
        questions=by_run["n"].sum(),
    )
    return points.reset_index(drop=True).query("tasks == tasks.max()")


def benchmark_of(task: str) -> str | None:
    """Return which of TASKS a task is, also on a file at hand; None: none of them.

    >>> benchmark_of("piqa"), benchmark_of("piqa_file"), benchmark_of("boolq")
    ('piqa', 'piqa', None)
    """
    return next((one for one in TASKS if task == one or task.startswith(f"{one}_")), None)


def label_model(model: str) -> str:
    """Return a model's name, and that it stands in where it is none of the paper's.

    >>> label_model("llama_7b"), label_model("smollm2_135m")
    ('llama_7b', 'stand-in smollm2_135m')
    """
    return model if model in LLAMA_MODELS else f"stand-in {model}"


def _row(
    point: Mapping[Any, Any], points: pd.DataFrame, accuracies: Mapping[tuple[str, str], Scores]
) -> dict[str, str]:
    interval = normal_interval(point["mean"], point["stderr"])
    row = {
        "model": label_model(point["model"]),
        "data type": type_name(point["dtype"], bool(point["dq"])),
        "bits": f"{point['bits']:.3g}",
        "paper": "not printed",
        "ours": f"{100 * point['mean']:.1f}",
        "95% interval": format_interval(interval, 1, scale=100),
        "n": f"{point['tasks']} tasks, {point['questions']:,} questions",
        AGAINST: "-",
        NEEDED: "-",
    }
    nf4 = _matching_nf4(point, points)
    if nf4 is None:
        return row
    first, second = (accuracies.get((one["run_id"], one["digest"]), {}) for one in (nf4, point))
    differences = paired_differences(first, second)
    if differences:
        row[AGAINST] = format_difference(differences)
        needed = questions_needed(differences)
        row[NEEDED] = "-" if math.isnan(needed) else f"{needed:,.0f}"
    return row


def _matching_nf4(point: Mapping[Any, Any], points: pd.DataFrame) -> Mapping[Any, Any] | None:
    """Return NF4 with as much quantized where there is one; for NF4 + DQ, NF4 without."""
    nf4 = points[(points["model"] == point["model"]) & (points["dtype"] == "nf4")]
    if point["dtype"] == "nf4":
        nf4 = nf4[~nf4["dq"].astype(bool)] if point["dq"] else nf4.head(0)
    elif (nf4["dq"] == point["dq"]).any():
        nf4 = nf4[nf4["dq"] == point["dq"]]
    return None if nf4.empty else nf4.iloc[0].to_dict()


def paired_differences(first: Scores, second: Scores) -> list[Array]:
    """Return first - second for every shared question, a task at a time."""
    differences = []
    for task in sorted(first.keys() & second.keys()):
        both = pd.concat([first[task], second[task]], axis=1, join="inner").dropna()
        if len(both) > 1:
            differences.append((both.iloc[:, 0] - both.iloc[:, 1]).to_numpy(np.float64))
    return differences


def format_difference(tasks: Sequence[Array]) -> str:
    """Return the mean over tasks in points with its 95% interval, each task weighing the same.

    >>> format_difference([np.array([1.0, 0.0, 0.0, 0.0] * 100), np.array([0.0, -1.0] * 100)])
    '-12.5 [-16.6, -8.4]'
    """
    mean = average_estimates([estimate_mean(task) for task in tasks])
    interval = normal_interval(mean.effect, mean.se)
    return f"{100 * mean.effect:+.1f} {format_interval(interval, 1, signed=True, scale=100)}"


def questions_needed(tasks: Sequence[Array]) -> float:
    """Return how many questions, the same number a task, show a true difference of one point.

    With a paired t-test at 5% in four of five repetitions, if questions differ between the types as
    often as these do. NaN where no answer differs.
    """
    sd = math.sqrt(sum(float(task.var(ddof=1)) for task in tasks) / len(tasks))
    if sd == 0:
        return math.nan
    return float(TTestPower().solve_power(effect_size=POINT / sd, alpha=ALPHA, power=POWER))


def _list_limits(points: pd.DataFrame, results: Path) -> list[str]:
    """Return which points are of a part of the questions, and so no figures to publish."""
    settings = load_settings(results)
    limits = {
        point["folder"]: settings.get((point["run_id"], point["digest"]), {}).get("eval", {})
        for point in points.to_dict("records")
    }
    return [
        f"{folder}: limit {asked['limit']}"
        for folder, asked in limits.items()
        if asked.get("limit") is not None
    ]
