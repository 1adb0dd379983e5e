"""Figure 2: a score by where LoRA goes, a point a seed; the paper's points on the left."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.tables.fig2_lora_coverage import ARTIFACT, printed_points


def draw_figure(results: Path) -> Figure:
    """Draw a panel for the paper and one for each comparable group of runs; means as lines."""
    printed = {row: np.array(points) for row, points in printed_points().items()}
    groups = [("the paper, LLaMA-7B on Alpaca", printed), *style.load_panels(ARTIFACT, results)]
    figure, panels = style.new_panels(len(groups), width=0.3 + 2.3 * len(groups), height=3.6)
    panels[0].set_ylabel("RougeL")
    for axes, (label, points) in zip(panels, groups, strict=True):
        style.set_title(axes, label)
        _draw_points(axes, points)
    return figure


def _draw_points(axes: Axes, points: style.Points) -> None:
    rows = sorted(points, key=lambda row: -float(points[row].mean()))
    for x, row in enumerate(rows):
        values = points[row]
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(x + spread, values, "o", color=style.BLUE, markersize=4)
        axes.hlines(float(values.mean()), x - 0.3, x + 0.3, color=style.BLACK, linewidth=1.2)
    axes.set_xticks(range(len(rows)), rows, rotation=60, ha="right", fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
