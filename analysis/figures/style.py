"""What figures share: colours and markers by data type, empty figures, panels of runs.

Colours and markers are told apart in black and white too.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.artifacts.artifact import Artifact
from analysis.artifacts.effects import seed_means
from analysis.artifacts.render import label_comparable, list_caveats
from analysis.artifacts.runs import load_evaluated_runs

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


def style_of_type(dtype: str) -> tuple[str, str]:
    """Return (colour, marker) of a data type; grey for one that has none of its own.

    >>> style_of_type("nf4")
    ('#0072B2', 'o')
    """
    return TYPES.get(dtype, (GREY, "."))


def new_figure(*, width: float = 6.5, height: float = 4.0) -> Figure:
    """Return an empty figure, sizes in inches; 6.5 is the width of a printed page's text."""
    return Figure(figsize=(width, height), layout="constrained")


def style_axes(axes: Axes) -> Axes:
    """Take away the frame's upper and right side, and draw a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


Points = Mapping[str, NDArray[np.float64]]  # row -> a mean a seed, (S,)
MAX_PANELS = 5  # of runs
TITLE_WIDTH = 28  # letters over a panel


def load_panels(artifact: Artifact, results: Path) -> list[tuple[str, Points]]:
    """Return (label, points) of the comparable groups with the most rows and seeds, tuned ones.

    A row of several settings, as of a search for a learning rate, is in the table and not here.

    Raises:
        StoreError: There is no such folder.
    """
    panels: list[tuple[str, Points]] = []
    runs = load_evaluated_runs(results)
    for comparable, label in label_comparable(artifact, artifact.printed_cells(), runs):
        rows = [group.row for group in comparable.groups]
        single = [group for group in comparable.groups if rows.count(group.row) == 1]
        points = {group.row: seed_means(group) for group in single if group.is_tuned}
        caveats = dict.fromkeys(c for group in comparable.groups for c in list_caveats(group))
        if len(points) > 1:
            panels.append((" ".join([label, *(f"({caveat})" for caveat in caveats)]), points))
    panels.sort(key=lambda panel: -sum(map(len, panel[1].values())))
    return panels[:MAX_PANELS]


def wrap_title(label: str) -> str:
    """Return a label broken into lines that fit over a panel."""
    return textwrap.fill(label, TITLE_WIDTH)
