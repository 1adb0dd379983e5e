"""How figures look: a colour and a mark for each data type, told apart in black and white too.

What figures of cells share: the paper's panel, then one a block of runs, a point a seed.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.artifacts.effects import repeats
from analysis.artifacts.lines import labelled, marks
from analysis.artifacts.spec import Artifact
from analysis.findings.runs import load

# Okabe and Ito's palette, which the colour-blind can tell apart
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"
TYPES: dict[str, tuple[str, str]] = {  # data type -> (colour, marker)
    "nf4": (BLUE, "o"),
    "af4": (SKY, "D"),
    "fp4": (RED, "s"),
    "fp4_e2m1": (ORANGE, "^"),
    "fp4_e3m0": (PINK, "v"),
    "int4": (GREEN, "P"),
    "int8": (GREY, "X"),
    "bf16": (BLACK, "*"),
    "fp32": (BLACK, "h"),
}


def look(dtype: str) -> tuple[str, str]:
    """Return (colour, marker) of a data type; grey for one that has none of its own.

    >>> look("nf4")
    ('#0072B2', 'o')
    """
    return TYPES.get(dtype, (GREY, "."))


def page(*, width: float = 6.5, height: float = 4.0) -> Figure:
    """Return an empty figure, sizes in inches; 6.5 is the width of a printed page's text."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(axes: Axes) -> Axes:
    """Take away the frame's upper and right side, and draw a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


Points = Mapping[str, NDArray[np.float64]]  # row -> a mean a seed, (S,)
MOST = 5  # panels of runs
WIDTH = 28  # letters over a panel


def panels(artifact: Artifact, root: Path) -> list[tuple[str, Points]]:
    """Return (label, points) of the blocks with the most rows and seeds, of tuned runs alone.

    A row of several settings, as of a search for a learning rate, is in the table and not here.
    StoreError where there is no such folder.
    """
    found: list[tuple[str, Points]] = []
    for block, label in labelled(artifact, artifact.paper(), load(root)):
        rows = [arm.row for arm in block.arms]
        single = [arm for arm in block.arms if arm.tuned and rows.count(arm.row) == 1]
        points = {arm.row: repeats(arm) for arm in single}
        marked = dict.fromkeys(mark for arm in block.arms for mark in marks(arm))
        if len(points) > 1:
            found.append((" ".join([label, *(f"({mark})" for mark in marked)]), points))
    found.sort(key=lambda panel: -sum(map(len, panel[1].values())))
    return found[:MOST]


def titled(label: str) -> str:
    """Return a label broken into lines that fit over a panel."""
    return textwrap.fill(label, WIDTH)
