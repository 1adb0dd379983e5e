"""Figure 2: a score by where LoRA goes, a point a seed; the paper's points on the left."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    BLACK,
    BLUE,
    Points,
    load_panels,
    new_figure,
    style_axes,
    wrap_title,
)
from analysis.tables.fig2_lora_coverage import ARTIFACT, printed_points

UNIT = "RougeL"


def draw_figure(results: Path) -> Figure:
    """Draw a panel for the paper and one for each comparable group of runs; means as lines."""
    printed = {row: np.array(points) for row, points in printed_points().items()}
    panels = [("the paper, LLaMA-7B on Alpaca", printed), *load_panels(ARTIFACT, results)]
    figure = new_figure(width=0.3 + 2.3 * len(panels), height=3.6)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    axes[0].set_ylabel(UNIT)
    for panel, (label, points) in zip(axes, panels, strict=True):
        _draw_points(style_axes(panel), label, points)
    return figure


def _draw_points(axes: Axes, label: str, points: Points) -> None:
    rows = sorted(points, key=lambda row: -float(points[row].mean()))
    for x, row in enumerate(rows):
        values = points[row]
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(x + spread, values, "o", color=BLUE, markersize=4)
        axes.hlines(float(values.mean()), x - 0.3, x + 0.3, color=BLACK, linewidth=1.2)
    axes.set_xticks(range(len(rows)), rows, rotation=60, ha="right", fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_title(wrap_title(label), fontsize=8)
