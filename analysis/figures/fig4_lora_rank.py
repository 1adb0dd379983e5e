"""Figure 4: a score by the rank of adapters, a point a seed; the paper's runs on the left."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.paper_tables import load_grid
from analysis.tables.fig4_lora_rank import ARTIFACT, STEM


def draw_figure(results: Path) -> Figure:
    """Draw the paper's mean, standard deviation and range, then comparable groups of runs."""
    groups = style.load_panels(ARTIFACT, results)
    width = 2.6 + 2.1 * len(groups)
    figure, (first, *others) = style.new_panels(1 + len(groups), width=width, height=3.2)
    _draw_printed(first)
    for axes, (label, points) in zip(others, groups, strict=True):
        style.set_title(axes, label)
        _draw_points(axes, points)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower left", fontsize=7)
    return figure


def _draw_printed(axes: Axes) -> None:
    runs = load_grid(STEM).rename(index=int).sort_index()
    ranks, label = runs.index.tolist(), "mean, standard deviation of runs"
    axes.vlines(
        ranks, runs["min"], runs["max"], color=style.GREY, linewidth=1, label="lowest to highest"
    )
    axes.errorbar(
        ranks, runs["mean"], yerr=runs["sd"], color=style.BLUE, marker="o", capsize=3, label=label
    )
    axes.set_title("the paper, LLaMA-7B on Alpaca,\nadapters on all layers", fontsize=8)
    axes.set_ylabel("RougeL")
    _label_ranks(axes, ranks)


def _draw_points(axes: Axes, points: style.Points) -> None:
    ranks = sorted(map(int, points))
    for rank in ranks:
        values = points[str(rank)]
        axes.plot([rank] * len(values), values, "o", color=style.BLUE, markersize=4)
    means = [float(points[str(rank)].mean()) for rank in ranks]
    axes.plot(ranks, means, color=style.BLACK, linewidth=1)
    _label_ranks(axes, ranks)


def _label_ranks(axes: Axes, ranks: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.set_xlabel("r")
