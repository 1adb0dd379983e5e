"""Two data types on the same zero-shot questions: how far apart, and how many would tell more.

Figure 3: mean zero-shot accuracy against the bits of the whole model, as a table.
"""

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.artifacts.spec import cells
from analysis.findings.runs import question_scores
from analysis.table import Table
from qlora_repro.store.load import MANIFEST, folders, model_bits, records, settings, type_name

POINT, ALPHA, POWER = 0.01, 0.05, 0.8  # the difference in question, and how surely it is to show
METRIC = "acc"  # the paper does not say whether it is normalized by length
Values = NDArray[np.float64]
Scores = Mapping[str, pd.Series]  # task -> a score a question


def scores(path: Path) -> Scores:
    """Return the accuracy of each question, by task; {} where no answers were kept."""
    if not path.exists():
        return {}
    return {task: own for (task, name), own in question_scores(path).items() if name == METRIC}


def differences(first: Scores, second: Scores) -> list[Values]:
    """Return first - second for every shared question, a task at a time."""
    found = []
    for task in sorted(first.keys() & second.keys()):
        both = pd.concat([first[task], second[task]], axis=1, join="inner").dropna()
        if len(both) > 1:
            found.append((both.iloc[:, 0] - both.iloc[:, 1]).to_numpy(np.float64))
    return found


def told(tasks: list[Values]) -> str:
    """Return the mean over tasks in points with its 95% interval, each task weighing the same.

    >>> told([np.array([1.0, 0.0, 0.0, 0.0] * 100), np.array([0.0, -1.0] * 100)])
    '-12.5 [-16.6, -8.4]'
    """
    mean = sum(float(task.mean()) for task in tasks) / len(tasks)
    error = math.sqrt(sum(float(task.var(ddof=1)) / len(task) for task in tasks)) / len(tasks)
    half = float(stats.norm.isf(ALPHA / 2)) * error
    return f"{100 * mean:+.1f} [{100 * (mean - half):+.1f}, {100 * (mean + half):+.1f}]"


def questions_to_tell(tasks: list[Values]) -> float:
    """Return how many questions, the same number a task, show a true difference of one point.

    With a paired t-test at 5% in four of five repetitions, if questions differ between the types as
    often as these do. NaN where no answer differs.
    """
    sd = math.sqrt(sum(float(task.var(ddof=1)) for task in tasks) / len(tasks))
    if sd == 0:
        return math.nan
    return float(TTestPower().solve_power(effect_size=POINT / sd, alpha=ALPHA, power=POWER))


STEM = "fig3_zeroshot_by_bits"
MODELS = ("llama_7b", "llama_13b", "llama_33b", "llama_65b")
COLUMNS = (
    *("model", "data type", "bits", "paper", "ours", "95% interval", "n"),
    *("NF4 against it", "questions to tell 1 point"),
)
TASKS = ("winogrande", "hellaswag", "piqa", "arc_easy", "arc_challenge")
NORMAL = 1.96  # standard errors


def build(root: Path) -> Table:
    """Return a row a model and data type; the figure's points are not known, its axis is."""
    found, axis = points(root), cells(STEM)
    rows = [
        {
            "model": named(str(row["model"])),
            "data type": type_name(str(row["dtype"]), bool(row["dq"])),
            "bits": f"{row['bits']:.3g}",
            "paper": "not printed",
            "ours": f"{100 * row['mean']:.1f}",
            "95% interval": f"[{100 * (row['mean'] - NORMAL * row['stderr']):.1f}, "
            f"{100 * (row['mean'] + NORMAL * row['stderr']):.1f}]",
            "n": f"{row['tasks']} tasks, {row['questions']:,} questions",
            **_nf4_against(root, row, found),
        }
        for row in (found.sort_values(["model", "bits"]).to_dict("records") if len(found) else ())
    ]
    low, high = (axis["accuracy axis", end] for end in ("from", "to"))
    asked = records(root, "metrics")
    models = set(found["model"]) if len(found) else set()
    told = asked[asked["model"].isin(models)] if len(asked) else asked
    said = {f"{row['model']}: {row['note']}" for row in told.to_dict("records") if row["note"]}
    return Table(
        title="Figure 3: zero-shot accuracy by bits of the whole model, nothing trained",
        frame=pd.DataFrame(rows, columns=list(COLUMNS)),
        notes=[
            f"paper: its points were never printed; its axis runs from {low:g} to {high:g} %",
            f"ours: mean of the tasks asked, of {', '.join(TASKS)}; interval: 95%, over questions",
            "NF4 against it: points on the same questions; NF4 with as much quantized, NF4 + DQ "
            "with NF4; the last column: how many such questions show a true point in 4 of 5 cases",
            *([] if rows else [f"no run has scores; python run.py experiments={STEM} makes them"]),
            *sorted(said),
            *_marked(root, found),
        ],
        runs=folders(found),
    )


def named(model: str) -> str:
    """Return a model's name, and that it stands in where it is none of the paper's.

    >>> named("llama_7b"), named("smollm2_135m")
    ('llama_7b', 'stand-in smollm2_135m')
    """
    return model if model in MODELS else f"stand-in {model}"


def benchmark(task: str) -> str | None:
    """Return which of TASKS a task is, also on a file at hand; None: none of them.

    >>> benchmark("piqa"), benchmark("piqa_file"), benchmark("boolq")
    ('piqa', 'piqa', None)
    """
    return next((one for one in TASKS if task == one or task.startswith(f"{one}_")), None)


def _nf4_against(root: Path, row: Mapping[Hashable, Any], found: pd.DataFrame) -> dict[str, str]:
    """Return the last two columns of a row; "-" where there is no NF4 to compare it with."""
    nf4 = found[(found["model"] == row["model"]) & (found["dtype"] == "nf4")]
    if row["dtype"] == "nf4":
        nf4 = nf4[~nf4["dq"].astype(bool)] if row["dq"] else nf4.head(0)
    elif (nf4["dq"] == row["dq"]).any():
        nf4 = nf4[nf4["dq"] == row["dq"]]
    if nf4.empty:
        return dict.fromkeys(COLUMNS[-2:], "-")
    sides = [
        scores(root / str(one["folder"]) / f"answers-{one['digest']}.jsonl")
        for one in (nf4.iloc[0], row)
    ]
    pairs = differences(*sides)
    if not pairs:
        return dict.fromkeys(COLUMNS[-2:], "-")
    n = questions_to_tell(pairs)
    return {COLUMNS[-2]: told(pairs), COLUMNS[-1]: "-" if math.isnan(n) else f"{n:,.0f}"}


def _marked(root: Path, found: pd.DataFrame) -> list[str]:
    """Return why points are no figures to publish."""
    said = []
    for row in found.to_dict("records"):
        limit = settings(root, row["folder"], row["digest"]).get("eval", {}).get("limit")
        said += [f"{row['folder']}: the code had uncommitted changes"] if row["dirty"] else []
        said += [f"{row['folder']}: limit {limit}"] if limit is not None else []
    return said


def points(root: Path) -> pd.DataFrame:
    """Return a row a model and type: where it is from, bits, mean, stderr, tasks.

    A model that was not asked every task that another was is left out, so that means compare.
    """
    metrics = records(root, "metrics")
    if metrics.empty:
        return metrics
    metrics = metrics.assign(task=metrics["task"].map(benchmark))
    asked = metrics[metrics["task"].notna() & (metrics["name"] == METRIC) & metrics["lora"].isna()]
    rows = []
    for folder, part in asked.groupby("folder", sort=False):
        part = part.drop_duplicates("task")
        first = part.iloc[0]
        manifest = json.loads((root / str(folder) / MANIFEST).read_text())
        rows.append(
            {
                **{
                    name: first[name]
                    for name in ("folder", "digest", "dirty", "model", "dtype", "dq")
                },
                "bits": model_bits(manifest["base"], kept=32 if first["dtype"] == "fp32" else 16),
                "mean": part["value"].mean(),
                "stderr": (part["stderr"] ** 2).sum() ** 0.5 / len(part),
                "tasks": len(part),
                "questions": int(part["n"].sum()),
            }
        )
    found = pd.DataFrame(rows)
    return found if found.empty else found[found["tasks"] == found["tasks"].max()]
