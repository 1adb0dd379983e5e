"""Data types in pictures: their levels, their error by block size, and estimated quantiles."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis.figures import style
from analysis.tables.data_types import load_quant_errors, relative_error
from qlora_repro.store.load import load_measurements

PRESET = "data_types"
BLOCKSIZE = 64  # the paper's
MAX_LEVELS = 16  # types with more levels fill a number line, and are a hundred times finer
CHUNK_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.SKY)


def draw_codebooks(results: Path) -> Figure:
    """Draw a number line a type, and below them the best levels for normal weights in blocks.

    Raises:
        StoreError: No run has measured data types.
    """
    codebooks = load_measurements("codebooks", results)
    lines = select_codebooks(style.require_records(codebooks, "codebooks", PRESET, results))
    figure, (axes,) = style.new_panels(height=1.2 + 0.36 * len(lines))
    for height, line in enumerate(reversed(lines)):
        colour = style.style_of_type(line["dtype"])[0] if line["dtype"] else style.BLACK
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


def select_codebooks(codebooks: pd.DataFrame) -> list[dict[Any, Any]]:
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
    rows = pd.concat([registered, best.assign(dtype="")]).to_dict("records")
    for row in rows:
        of_size = "" if pd.isna(row["blocksize"]) else f",\nblocks of {row['blocksize']:.0f}"
        row["label"] = (row["dtype"] or "optimum for N(0,1)") + of_size
    return rows


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
    style.require_records(errors, "errors of data types", PRESET, results)
    errors = errors[(errors["levels"] <= MAX_LEVELS) & ~errors["dq"].astype(bool)]
    sources = list(errors["source"].unique())
    width = 2.2 * len(sources) + 1.4
    figure, panels = style.new_panels(len(sources), width=width, height=3.8, sharey=True)
    for axes, source in zip(panels, sources, strict=True):
        of_source = errors[errors["source"] == source]
        for dtype, of_type in of_source.groupby("dtype", sort=False):
            colour, marker = style.style_of_type(str(dtype))
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
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", frameon=False)
    return figure


def draw_sram_quantiles(results: Path) -> Figure:
    """Draw how far means of chunks' quantiles are from the sample's own.

    A panel a distribution, a line a chunk size, from two chunks on: one is its own sample.

    Raises:
        StoreError: No run has measured them.
    """
    errors = load_measurements("sram_quantiles", results)
    style.require_records(errors, "SRAM quantiles", PRESET, results)
    errors = errors.drop_duplicates(["distribution", "chunk", "count"])
    distributions = list(errors["distribution"].unique())
    width = 2.2 * len(distributions) + 1.4
    figure, panels = style.new_panels(len(distributions), width=width, height=3.2, sharey=True)
    for axes, distribution in zip(panels, distributions, strict=True):
        part = errors[(errors["distribution"] == distribution) & (errors["count"] > 1)]
        chunks = part.sort_values("count").groupby("chunk")
        for colour, marker, (chunk, rows) in zip(CHUNK_COLOURS, "os^Dv", chunks, strict=False):
            axes.plot(rows["count"], rows["mean"], color=colour, marker=marker, label=f"{chunk:,}")
        _use_log_scales(axes, part["count"])
        axes.set_title(str(distribution).replace("_", " "), fontsize=10)
        axes.set_xlabel("chunks averaged")
    panels[0].set_ylabel("mean absolute error,\nunits of the distribution")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, title="values a chunk", loc="outside right center", frameon=False)
    return figure


def _use_log_scales(axes: Axes, sizes: pd.Series, *, rotation: int = 0) -> None:
    """Use logarithmic scales, with a tick at each of the sizes on the x axis."""
    ticks = sorted(int(size) for size in sizes.unique())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=rotation)
    axes.minorticks_off()
