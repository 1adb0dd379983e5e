"""Data types in pictures: their levels, their error by block size, and estimated quantiles."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SKY,
    new_figure,
    style_axes,
    style_of_type,
)
from analysis.tables.data_types import load_quant_errors, relative_error
from qlora_repro.errors import StoreError
from qlora_repro.store.load import load_measurements

BLOCKSIZE = 64  # the paper's
MAX_LEVELS = 16  # types with more levels fill a number line, and are a hundred times finer
CHUNK_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "D"), (SKY, "v"))


def draw_codebooks(results: Path) -> Figure:
    """Draw a number line a type, and below them the best levels for normal weights in blocks.

    Raises:
        StoreError: No run has measured data types.
    """
    codebooks = _load("codebooks", "codebooks", results)
    lines = select_codebooks(codebooks)
    figure = new_figure(height=1.2 + 0.36 * len(lines))
    axes = style_axes(figure.subplots())
    for height, line in enumerate(reversed(lines)):
        colour, _ = style_of_type(line["dtype"]) if line["dtype"] else (BLACK, "")
        axes.hlines(height, -1, 1, color="#BBBBBB", linewidth=0.8, zorder=1)
        axes.vlines(
            line["levels"], height - 0.28, height + 0.28, color=colour, linewidth=2.0, zorder=2
        )
    axes.set_yticks(range(len(lines)), [line["label"] for line in reversed(lines)])
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_xlim(-1.06, 1.06)
    axes.set_xlabel("level, in units of the block's absmax")
    axes.grid(visible=False, axis="y")
    return figure


def _load(kind: str, name: str, results: Path) -> pd.DataFrame:
    records = load_measurements(kind, results)
    if records.empty:
        raise StoreError(
            f"{results} has no {name}; python run.py experiments=data_types measures them"
        )
    return records


def select_codebooks(codebooks: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the lines: each type's own levels, then the optimal ones for normal weights."""
    codebooks = codebooks[codebooks["levels"].map(len) <= MAX_LEVELS]
    codebooks = codebooks.assign(key=codebooks["levels"].map(tuple))
    registered = codebooks[codebooks["fitted"].isna()].drop_duplicates("key")
    sized = registered["blocksize"].dropna()  # of types whose levels follow the block size
    if len(sized):
        shown = nearest_blocksize(sized)
        registered = registered[registered["blocksize"].isna() | (registered["blocksize"] == shown)]
    best = codebooks[codebooks["fitted"] == "normal"].drop_duplicates(["dtype", "blocksize"])
    best = best[best["dtype"] == f"optimum_{MAX_LEVELS}"]
    if len(best):
        best = best[best["blocksize"] == nearest_blocksize(best["blocksize"])]
    lines = []
    for row in registered.to_dict("records"):
        sized_label = f"{row['dtype']},\nblocks of {row['blocksize']:.0f}"
        label = row["dtype"] if pd.isna(row["blocksize"]) else sized_label
        lines.append({"label": label, "dtype": row["dtype"], "levels": list(row["levels"])})
    for row in best.to_dict("records"):
        label = f"optimum for N(0,1),\nblocks of {row['blocksize']:.0f}"
        lines.append({"label": label, "dtype": "", "levels": list(row["levels"])})
    return lines


def nearest_blocksize(sizes: pd.Series, wanted: int = BLOCKSIZE) -> int:
    """Return the size nearest to the wanted one.

    >>> nearest_blocksize(pd.Series([32, 128]))
    32
    """
    return int(min(sizes, key=lambda size: abs(int(size) - wanted)))


def draw_error_by_blocksize(results: Path) -> Figure:
    """Draw a panel a source of weights: relative error against block size, a line a type.

    Relative, since a block's absmax grows with the block: in units of it errors would seem to fall.

    Raises:
        StoreError: No run has measured data types.
    """
    errors = load_quant_errors(results)
    if errors.empty:
        _load("quant_errors", "errors of data types", results)
    errors = errors[(errors["levels"] <= MAX_LEVELS) & ~errors["dq"].astype(bool)]
    sources = list(errors["source"].unique())
    figure, panels = _new_panels(len(sources), height=3.8)
    for axes, source in zip(panels, sources, strict=True):
        of_source = errors[errors["source"] == source]
        for dtype, of_type in of_source.groupby("dtype", sort=False):
            colour, marker = style_of_type(str(dtype))
            by_size = of_type.groupby("blocksize")[["relative", "n"]].apply(relative_error)
            values = 100 * by_size
            axes.plot(
                values.index, values, color=colour, marker=marker, markersize=5, label=str(dtype)
            )
        _use_log_scales(axes, of_source["blocksize"], rotation=45)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(source.replace("_", " "), fontsize=10)
        axes.set_xlabel("block size")
    panels[0].set_ylabel("relative error, % of the weights' norm")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def draw_sram_quantiles(results: Path) -> Figure:
    """Draw how far means of chunks' quantiles are from the sample's own.

    A panel a distribution, a line a chunk size, from two chunks on: one is its own sample.

    Raises:
        StoreError: No run has measured them.
    """
    errors = _load("sram_quantiles", "SRAM quantiles", results)
    errors = errors.drop_duplicates(["distribution", "chunk", "count"])
    distributions = list(errors["distribution"].unique())
    figure, panels = _new_panels(len(distributions), height=3.2)
    for axes, distribution in zip(panels, distributions, strict=True):
        part = errors[(errors["distribution"] == distribution) & (errors["count"] > 1)]
        for (colour, marker), (chunk, rows) in zip(
            CHUNK_STYLES, part.sort_values("count").groupby("chunk"), strict=False
        ):
            axes.plot(rows["count"], rows["mean"], color=colour, marker=marker, label=f"{chunk:,}")
        _use_log_scales(axes, part["count"])
        axes.set_title(str(distribution).replace("_", " "), fontsize=10)
        axes.set_xlabel("chunks averaged")
    panels[0].set_ylabel("mean absolute error,\nunits of the distribution")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="values a chunk", loc="outside right center", frameon=False
    )
    return figure


def _new_panels(count: int, *, height: float) -> tuple[Figure, list[Axes]]:
    figure = new_figure(width=2.2 * count + 1.4, height=height)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    return figure, [style_axes(panel) for panel in panels]


def _use_log_scales(axes: Axes, sizes: pd.Series, *, rotation: int = 0) -> None:
    """Use logarithmic scales, with a tick at each of the sizes on the x axis."""
    ticks = sorted(int(size) for size in sizes.unique())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=rotation)
    axes.minorticks_off()
