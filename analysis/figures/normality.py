"""Are weights normal? Their quantiles against the normal ones, and where the test rejects."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.artifacts.runs import add_run_facts
from analysis.figures import style
from qlora_repro.store.load import load_measurements

ROLES: dict[str, tuple[str, str]] = {  # of a weight -> (colour, marker)
    "q": (style.BLUE, "o"),
    "k": (style.SKY, "s"),
    "v": (style.GREEN, "^"),
    "qkv": (style.BLUE, "P"),
    "o": (style.ORANGE, "D"),
    "gate": (style.PINK, "v"),
    "up": (style.RED, "X"),
    "down": (style.BLACK, "*"),
    "other": (style.GREY, "."),
}


def draw_figure(results: Path) -> Figure:
    """Draw quantiles of the rows by role, and the share of rejected rows by layer and role.

    Raises:
        StoreError: No run has tested its weights.
    """
    tests = add_run_facts(load_measurements("normality", results), results)
    style.require_records(tests, "tests of normality", "data_types", results)
    model = tests["model"].iloc[0]
    weights = tests[(tests["model"] == model) & (tests["name"] != "")]
    figure, (left, right) = style.new_panels(2, width=7.0, height=3.3)
    _draw_quantiles(left, weights)
    _draw_rejections(right, weights)
    left.set_title("standardized rows", fontsize=10)
    right.set_title(str(model), fontsize=10)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _draw_quantiles(axes: Axes, tests: pd.DataFrame) -> None:
    known = tests[tests["quantiles"].map(len) > 0]
    normal = stats.norm.ppf(np.array(known["probabilities"].iloc[0]))
    axes.plot(normal, normal, color=style.GREY, linestyle="--", linewidth=1)
    for role, part in known[known["source"] == "weights"].groupby("role", sort=False):
        colour, marker = ROLES[str(role)]
        mean = np.average(np.array(part["quantiles"].tolist()), axis=0, weights=part["rows"])
        axes.plot(normal, mean, color=colour, marker=marker, markersize=3.5, linewidth=0.8)
    axes.set_xlabel("normal quantile")
    axes.set_ylabel("quantile of the weights, sd of the row")


def _draw_rejections(axes: Axes, tests: pd.DataFrame) -> None:
    for role, part in tests[tests["source"] == "weights"].groupby("role", sort=False):
        colour, marker = ROLES[str(role)]
        shares = 100 * part.groupby("layer")["rejected"].mean()
        axes.plot(shares.index, shares, color=colour, marker=marker, markersize=4, label=str(role))
    synthetic = 100 * tests[tests["source"] == "normal"].groupby("layer")["rejected"].mean()
    axes.plot(synthetic.index, synthetic, color=style.GREY, linestyle="--", label="normal rows")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel("rows rejected at p < 0.05, %")
