"""Figure 2: a score by where LoRA goes, a point a seed; the paper's points on the left."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import BLACK, BLUE, Points, page, panels, plain, titled
from analysis.tables.fig2_lora_coverage import ARTIFACT, points

UNIT = "RougeL"


def draw(root: Path) -> Figure:
    """Draw a panel for the paper and one a block of runs; means as lines."""
    found = panels(ARTIFACT, root)
    paper = {str(row): np.array(of) for row, of in points().items()}
    figure = page(width=2.6 + 2.3 * len(found), height=3.6)
    axes = figure.subplots(1, 1 + len(found), squeeze=False)[0]
    _panel(plain(axes[0]), "the paper, LLaMA-7B on Alpaca", paper)
    axes[0].set_ylabel(UNIT)
    for panel, (label, of) in zip(axes[1:], found, strict=True):
        _panel(plain(panel), label, of)
    return figure


def _panel(axes: Axes, label: str, found: Points) -> None:
    rows = sorted(found, key=lambda row: -float(found[row].mean()))
    for place, row in enumerate(rows):
        values = found[row]
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + spread, values, "o", color=BLUE, markersize=4)
        axes.hlines(float(values.mean()), place - 0.3, place + 0.3, color=BLACK, linewidth=1.2)
    axes.set_xticks(range(len(rows)), rows, rotation=60, ha="right", fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_title(titled(label), fontsize=8)
