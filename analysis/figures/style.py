"""What figures share: colours and markers by data type, empty panels, panels of runs.

Colours and markers are told apart in black and white too.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.artifacts.artifact import Artifact
from analysis.artifacts.effects import seed_means
from analysis.artifacts.render import label_comparable, list_caveats
from analysis.artifacts.runs import load_evaluated_runs
from qlora_repro.errors import StoreError

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
Points = Mapping[str, NDArray[np.float64]]  # row -> a mean a seed, (S,)
MAX_PANELS = 5  # of runs
TITLE_WIDTH = 28  # letters over a panel


def style_of_type(dtype: str) -> tuple[str, str]:
    """Return (colour, marker) of a data type; grey for one that has none of its own.

    >>> style_of_type("nf4")
    ('#0072B2', 'o')
    """
    return TYPES.get(dtype, (GREY, "."))


def new_panels(
    count: int = 1, *, width: float = 6.5, height: float = 4.0, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with empty panels side by side, and these.

    Sizes are in inches; 6.5 is the width of a printed page's text. Panels lack the frame's upper
    and right side, and have a light grid behind the data.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def require_records(records: pd.DataFrame, what: str, preset: str, results: Path) -> pd.DataFrame:
    """Return the records; StoreError, which says what makes them, where there are none."""
    if records.empty:
        raise StoreError(f"{results} has no {what}; python run.py experiments={preset} makes them")
    return records


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


def set_title(axes: Axes, label: str) -> None:
    """Write a label over a panel, broken into lines that fit there."""
    axes.set_title(textwrap.fill(label, TITLE_WIDTH), fontsize=8)
