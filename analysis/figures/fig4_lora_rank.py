"""Figure 4: a score by the rank of adapters, a point a seed; the paper's runs on the left."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.artifacts.spec import cells
from analysis.figures.style import BLACK, BLUE, GREY, Points, page, panels, plain, titled
from analysis.tables.fig4_lora_rank import ARTIFACT, STEM

UNIT = "RougeL"


def draw(root: Path) -> Figure:
    """Draw a panel for the paper (mean, standard deviation, range) and one a block of runs."""
    found = panels(ARTIFACT, root)
    figure = page(width=2.6 + 2.1 * len(found), height=3.2)
    axes = figure.subplots(1, 1 + len(found), squeeze=False)[0]
    _paper(plain(axes[0]))
    for panel, (label, of) in zip(axes[1:], found, strict=True):
        _panel(plain(panel), label, of)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", fontsize=7)
    for panel in axes:
        panel.set_xlabel("r")
    return figure


def _paper(axes: Axes) -> None:
    of = cells(STEM)
    ranks = list(dict.fromkeys(row for row, _ in of))
    x = [int(rank) for rank in ranks]
    mean, sd, low, high = (
        np.array([of[rank, name] for rank in ranks]) for name in ("mean", "sd", "min", "max")
    )
    axes.vlines(x, low, high, color=GREY, linewidth=1, label="lowest to highest")
    axes.errorbar(
        x,
        mean,
        yerr=sd,
        color=BLUE,
        marker="o",
        capsize=3,
        label="mean, standard deviation of runs",
    )
    axes.set_title("the paper, LLaMA-7B on Alpaca,\nadapters on all layers", fontsize=8)
    axes.set_ylabel(UNIT)
    _ranks(axes, x)


def _panel(axes: Axes, label: str, found: Points) -> None:
    ranks = sorted(found, key=int)
    for rank in ranks:
        axes.plot([int(rank)] * len(found[rank]), found[rank], "o", color=BLUE, markersize=4)
    x = [int(rank) for rank in ranks]
    axes.plot(x, [float(found[rank].mean()) for rank in ranks], color=BLACK, linewidth=1)
    axes.set_title(titled(label), fontsize=8)
    _ranks(axes, x)


def _ranks(axes: Axes, ranks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
