"""Figure 3: mean zero-shot accuracy against the bits of the whole model, a line a data type."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import look, page, plain
from analysis.read import MANIFEST, records, type_name
from qlora_repro.errors import StoreError

TASKS = ("winogrande", "hellaswag", "piqa", "arc_easy", "arc_challenge")
METRIC = "acc"  # the paper does not say whether it is normalized by length


def draw(root: Path) -> Figure:
    """Draw the mean of the tasks that a model was asked; raises StoreError where there is none."""
    found = points(root)
    if found.empty:
        raise StoreError(
            f"{root} has no zero-shot scores of untuned models; python run.py "
            "experiments=fig3_zeroshot_by_bits makes them"
        )
    figure = page(height=3.8)
    axes = plain(figure.subplots())
    for (dtype, dq), part in found.sort_values("bits").groupby(["dtype", "dq"], sort=False):
        colour, marker = look(str(dtype))
        axes.errorbar(
            part["bits"],
            part["mean"],
            yerr=part["stderr"],
            color=colour,
            marker=marker,
            linestyle="--" if dq else "-",
            markerfacecolor="white" if dq else colour,
            capsize=2,
            label=type_name(str(dtype), bool(dq)),
        )
    axes.set_xscale("log")
    axes.set_xlabel("bits of the whole model")
    asked = found["tasks"].iloc[0]
    axes.set_ylabel(f"accuracy, mean of {asked} tasks, ± standard error")
    axes.legend(frameon=False)
    return figure


def points(root: Path) -> pd.DataFrame:
    """Return a row a model and type: model, dtype, dq, bits, mean, stderr, tasks.

    A model that was not asked every task that another was is left out, so that means compare.
    """
    metrics = records(root, "metrics")
    if metrics.empty:
        return metrics
    asked = metrics[
        metrics["task"].isin(TASKS) & (metrics["name"] == METRIC) & metrics["lora"].isna()
    ]
    rows = []
    for folder, part in asked.groupby("folder", sort=False):
        part = part.drop_duplicates("task")
        first = part.iloc[0]
        manifest = json.loads((root / str(folder) / MANIFEST).read_text())
        rows.append(
            {
                **{name: first[name] for name in ("model", "dtype", "dq")},
                "bits": model_bits(manifest["base"], kept=32 if first["dtype"] == "fp32" else 16),
                "mean": part["value"].mean(),
                "stderr": (part["stderr"] ** 2).sum() ** 0.5 / len(part),
                "tasks": len(part),
            }
        )
    found = pd.DataFrame(rows)
    return found if found.empty else found[found["tasks"] == found["tasks"].max()]


def model_bits(base: dict[str, Any], *, kept: int = 16) -> float:
    """Return the bits of a model as a GPU would hold it: codes, scales, and `kept` bits a value.

    A value held in float32 because a CPU computes faster in it was rounded to 16 bits before, and
    counts so, but for dtype=fp32.
    """
    stored = 8 * (base["code_bytes"] + base["scale_bytes"])
    values = sum(part["params"] for part in base["kept"] if part["role"] != "adapter")
    return float(stored + kept * values)
