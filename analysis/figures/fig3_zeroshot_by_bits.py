"""Figure 3: mean zero-shot accuracy against the bits of the whole model, a line a data type."""

from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.tables.fig3_zeroshot_by_bits import STEM, label_model, load_points
from qlora_repro.store.load import type_name


def draw_figure(results: Path) -> Figure:
    """Draw the mean of the tasks that a model was asked.

    Raises:
        StoreError: No untuned model has zero-shot scores.
    """
    points = load_points(results)
    style.require_records(points, "zero-shot scores of untuned models", STEM, results)
    figure, (axes,) = style.new_panels(height=3.8)
    for (dtype, dq), part in points.sort_values("bits").groupby(["dtype", "dq"], sort=False):
        colour, marker = style.style_of_type(str(dtype))
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
    caveat = " (uncommitted changes)" if points["dirty"].any() else ""
    models = ", ".join(map(label_model, dict.fromkeys(points["model"])))
    axes.set_title(models + caveat, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("bits of the whole model")
    axes.set_ylabel(f"accuracy, mean of {points['tasks'].iloc[0]} tasks, ± standard error")
    axes.legend(frameon=False)
    return figure
