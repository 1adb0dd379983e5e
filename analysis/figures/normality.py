"""Are weights normal? Their quantiles against the normal ones, and where the test rejects."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, page, plain
from qlora_repro.errors import StoreError
from qlora_repro.store.load import records

ROLES: dict[str, tuple[str, str]] = {
    "q": (BLUE, "o"),
    "k": (SKY, "s"),
    "v": (GREEN, "^"),
    "qkv": (BLUE, "P"),
    "o": (ORANGE, "D"),
    "gate": (PINK, "v"),
    "up": (RED, "X"),
    "down": (BLACK, "*"),
    "other": (GREY, "."),
}


def draw(root: Path) -> Figure:
    """Draw quantiles of the rows by role, and the share of rejected rows by layer and role.

    Raises StoreError where no run has tested its weights.
    """
    found = records(root, "normality")
    if found.empty:
        raise StoreError(
            f"{root} has no tests of normality; python run.py experiments=data_types makes them"
        )
    found = found[found["model"] == found["model"].iloc[0]]
    figure = page(width=7.0, height=3.3)
    left, right = figure.subplots(1, 2)
    single = found[found["name"] != ""]
    _quantiles(plain(left), single)
    _layers(plain(right), single)
    right.set_title(str(found["model"].iloc[0]), fontsize=10)
    left.set_title("standardized rows", fontsize=10)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _quantiles(axes: Axes, rows: pd.DataFrame) -> None:
    known = rows[rows["quantiles"].map(len) > 0]
    normal = stats.norm.ppf(np.array(known["probabilities"].iloc[0]))
    axes.plot(normal, normal, color=GREY, linestyle="--", linewidth=1)
    for role, part in known[known["source"] == "weights"].groupby("role", sort=False):
        colour, marker = ROLES[str(role)]
        mean = np.average(np.array(part["quantiles"].tolist()), axis=0, weights=part["rows"])
        axes.plot(normal, mean, color=colour, marker=marker, markersize=3.5, linewidth=0.8)
    axes.set_xlabel("normal quantile")
    axes.set_ylabel("quantile of the weights, sd of the row")


def _layers(axes: Axes, rows: pd.DataFrame) -> None:
    own = rows[rows["source"] == "weights"]
    for role, part in own.groupby("role", sort=False):
        colour, marker = ROLES[str(role)]
        means = part.groupby("layer")["rejected"].mean()
        axes.plot(
            means.index, 100 * means, color=colour, marker=marker, markersize=4, label=str(role)
        )
    control = rows[rows["source"] == "normal"].groupby("layer")["rejected"].mean()
    axes.plot(control.index, 100 * control, color=GREY, linestyle="--", label="normal rows")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel("rows rejected at p < 0.05, %")
