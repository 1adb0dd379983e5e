"""The levels of each data type on a number line, above the density that they are to cover."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import BLACK, look, page, plain
from qlora_repro.errors import StoreError
from qlora_repro.store.load import records

BLOCKSIZE = 64  # the paper's
MOST = 16  # of a type with more levels, a number line shows nothing


def draw(root: Path) -> Figure:
    """Draw a line a type, and below them the best levels for normal weights in blocks.

    Raises StoreError where no run has measured data types.
    """
    found = records(root, "codebooks")
    if found.empty:
        raise StoreError(
            f"{root} has no codebooks; python run.py experiments=data_types measures them"
        )
    lines = chosen(found)
    figure = page(height=1.2 + 0.36 * len(lines))
    axes = plain(figure.subplots())
    for height, line in enumerate(reversed(lines)):
        _line(axes, height, line)
    axes.set_yticks(range(len(lines)), [line["label"] for line in reversed(lines)])
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_xlim(-1.06, 1.06)
    axes.set_xlabel("level, in units of the block's absmax")
    axes.grid(visible=False, axis="y")
    return figure


def chosen(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the lines: each type's own levels, then the optimal ones for normal weights."""
    shown = found[found["levels"].map(len) <= MOST].copy()
    shown["key"] = shown["levels"].map(tuple)
    own = shown[shown["fitted"].isna()].drop_duplicates("key")
    sized = own["blocksize"].dropna()  # types whose levels follow the block size
    if len(sized):
        own = own[own["blocksize"].isna() | (own["blocksize"] == nearest(sized, BLOCKSIZE))]
    best = shown[shown["fitted"] == "normal"].drop_duplicates(["dtype", "blocksize"])
    best = best[best["dtype"] == f"optimum_{MOST}"]
    best = best[best["blocksize"] == nearest(best["blocksize"], BLOCKSIZE)] if len(best) else best
    rows = [
        {"label": _label(row), "dtype": row["dtype"], "levels": row["levels"]}
        for row in own.to_dict("records")
    ]
    rows += [
        {
            "label": f"optimum for N(0,1),\nblocks of {int(row['blocksize'])}",
            "dtype": "",
            "levels": row["levels"],
        }
        for row in best.to_dict("records")
    ]
    return rows


def _label(row: dict[Any, Any]) -> str:
    if pd.isna(row["blocksize"]):
        return str(row["dtype"])
    return f"{row['dtype']},\nblocks of {int(row['blocksize'])}"


def nearest(values: pd.Series, wanted: int) -> int:
    """Return the value nearest to the wanted one.

    >>> nearest(pd.Series([32, 128]), 64)
    32
    """
    return int(min(values, key=lambda value: abs(int(value) - wanted)))


def _line(axes: Axes, height: int, line: dict[str, Any]) -> None:
    levels = np.array(line["levels"], dtype=np.float64)
    colour, _ = look(line["dtype"]) if line["dtype"] else (BLACK, "")
    axes.hlines(height, -1, 1, color="#BBBBBB", linewidth=0.8, zorder=1)
    axes.vlines(levels, height - 0.28, height + 0.28, color=colour, linewidth=2.0, zorder=2)
