"""What figures of cells share: the paper's panel, then one a block of runs, a point a seed."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.cells.artifact import Artifact
from analysis.cells.compare import repeats
from analysis.cells.lines import labelled, marks
from analysis.claims.runs import load

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
