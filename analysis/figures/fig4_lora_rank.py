"""Figure 4: a score by the rank of adapters, a point a seed; the paper's runs on the left."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    BLACK,
    BLUE,
    GREY,
    Points,
    load_panels,
    new_figure,
    style_axes,
    wrap_title,
)
from analysis.paper_tables import load_column
from analysis.tables.fig4_lora_rank import ARTIFACT, STEM

UNIT = "RougeL"


def draw_figure(results: Path) -> Figure:
    """Draw the paper's mean, standard deviation and range, then comparable groups of runs."""
    panels = load_panels(ARTIFACT, results)
    figure = new_figure(width=2.6 + 2.1 * len(panels), height=3.2)
    first, *others = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    _draw_printed(style_axes(first))
    for axes, (label, points) in zip(others, panels, strict=True):
        _draw_points(style_axes(axes), label, points)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower left", fontsize=7)
    return figure


def _draw_printed(axes: Axes) -> None:
    columns = [load_column(STEM, name) for name in ("mean", "sd", "min", "max")]
    mean, sd, low, high = (np.array(list(column.values())) for column in columns)
    ranks = [int(rank) for rank in columns[0]]
    axes.vlines(ranks, low, high, color=GREY, linewidth=1, label="lowest to highest")
    axes.errorbar(
        ranks,
        mean,
        yerr=sd,
        color=BLUE,
        marker="o",
        capsize=3,
        label="mean, standard deviation of runs",
    )
    axes.set_title("the paper, LLaMA-7B on Alpaca,\nadapters on all layers", fontsize=8)
    axes.set_ylabel(UNIT)
    _label_ranks(axes, ranks)


def _draw_points(axes: Axes, label: str, points: Points) -> None:
    ranks = sorted(map(int, points))
    for rank in ranks:
        values = points[str(rank)]
        axes.plot([rank] * len(values), values, "o", color=BLUE, markersize=4)
    means = [float(points[str(rank)].mean()) for rank in ranks]
    axes.plot(ranks, means, color=BLACK, linewidth=1)
    axes.set_title(wrap_title(label), fontsize=8)
    _label_ranks(axes, ranks)


def _label_ranks(axes: Axes, ranks: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.set_xlabel("r")
