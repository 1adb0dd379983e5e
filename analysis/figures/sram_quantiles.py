"""How far means of chunks' quantiles are from the sample's own, against the chunks averaged."""

from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures.style import BLUE, GREEN, ORANGE, RED, SKY, page, plain
from qlora_repro.errors import StoreError
from qlora_repro.store.load import records

LINES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "D"), (SKY, "v"))


def draw(root: Path) -> Figure:
    """Draw a panel a distribution, a line a chunk size, from two chunks on: one is its own sample.

    Raises StoreError where no run has measured them.
    """
    found = records(root, "sram_quantiles")
    if found.empty:
        raise StoreError(
            f"{root} has no SRAM quantiles; python run.py experiments=data_types measures them"
        )
    found = found.drop_duplicates(["distribution", "chunk", "count"])
    kinds = list(found["distribution"].unique())
    figure = page(width=2.2 * len(kinds) + 1.4, height=3.2)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        axes = plain(panel)
        part = found[(found["distribution"] == kind) & (found["count"] > 1)]
        for (colour, marker), (chunk, rows) in zip(
            LINES, part.sort_values("count").groupby("chunk"), strict=False
        ):
            axes.plot(rows["count"], rows["mean"], color=colour, marker=marker, label=f"{chunk:,}")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        counts = sorted(int(count) for count in part["count"].unique())
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_title(str(kind).replace("_", " "), fontsize=10)
        axes.set_xlabel("chunks averaged")
    panels[0].set_ylabel("mean absolute error,\nunits of the distribution")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="values a chunk", loc="outside right center", frameon=False
    )
    return figure
