"""The error of each data type against the block size, on normal and on real weights."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis.figures.style import look, page, plain
from analysis.tables.data_types import errors, relative
from qlora_repro.errors import StoreError

EIGHT_BITS = 16  # types with more levels than this are a hundred times finer, and off the scale


def draw(root: Path) -> Figure:
    """Draw a panel a source: relative error against block size, a line a type.

    Relative, since a block's absmax grows with the block: in units of it errors would seem to fall.

    Raises StoreError where no run has measured data types.
    """
    found = errors(root)
    if found.empty:
        raise StoreError(
            f"{root} has no errors of data types; python run.py experiments=data_types measures "
            "them"
        )
    found = found[(found["levels"] <= EIGHT_BITS) & ~found["dq"].astype(bool)]
    sources = list(found["source"].unique())
    figure = page(width=2.2 * len(sources) + 1.4, height=3.8)
    panels = figure.subplots(1, len(sources), sharey=True, squeeze=False)[0]
    for panel, source in zip(panels, sources, strict=True):
        _panel(plain(panel), found[found["source"] == source], source)
    panels[0].set_ylabel("relative error, % of the weights' norm")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, source: str) -> None:
    for dtype, part in rows.groupby("dtype", sort=False):
        colour, marker = look(str(dtype))
        sizes = sorted(int(size) for size in part["blocksize"].unique())
        found = [100 * relative(part[part["blocksize"] == size]) for size in sizes]
        axes.plot(sizes, found, color=colour, marker=marker, markersize=5, label=str(dtype))
    sizes = sorted(int(size) for size in rows["blocksize"].unique())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(source.replace("_", " "), fontsize=10)
    axes.set_xlabel("block size")
