"""Figure 3: mean zero-shot accuracy against the bits of the whole model, a line a data type."""

from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures.style import look, page, plain
from analysis.tables.fig3_zeroshot_by_bits import named, points
from qlora_repro.errors import StoreError
from qlora_repro.store.load import type_name


def draw(root: Path) -> Figure:
    """Draw the mean of the tasks that a model was asked; raises StoreError where there is none."""
    found = points(root)
    if found.empty:
        raise StoreError(
            f"{root} has no zero-shot scores of untuned models; python run.py "
            "experiments=fig3_zeroshot_by_bits makes them"
        )
    figure = page(height=3.8)
    axes = plain(figure.subplots())
    for (dtype, dq), part in found.sort_values("bits").groupby(["dtype", "dq"], sort=False):
        colour, marker = look(str(dtype))
        axes.errorbar(
            part["bits"],
            part["mean"],
            yerr=part["stderr"],
            color=colour,
            marker=marker,
            linestyle="--" if dq else "-",
            markerfacecolor="white" if dq else colour,
            capsize=2,
            label=type_name(str(dtype), bool(dq)),
        )
    marked = " (uncommitted changes)" if found["dirty"].any() else ""
    models = ", ".join(map(named, dict.fromkeys(found["model"])))
    axes.set_title(models + marked, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("bits of the whole model")
    asked = found["tasks"].iloc[0]
    axes.set_ylabel(f"accuracy, mean of {asked} tasks, ± standard error")
    axes.legend(frameon=False)
    return figure
