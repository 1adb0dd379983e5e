"""Figure 6: stacked bars of memory by model size, the paper's beside the predicted ones."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure, style_axes
from analysis.paper_tables import LLAMA_MODELS, load_grid
from analysis.tables.fig6_memory import STEM, compare_bars, load_like_plans
from qlora_repro.errors import StoreError

PARTS = {"model": BLUE, "adapters": ORANGE, "optimizer": GREEN, "gradients, activations": GREY}
CARDS = (24, 48)  # GB
WIDTH, GAP = 0.36, 0.2  # of a bar, and of the two bars' centres from the tick
HATCHES = ("//", None)  # the paper's, ours


def draw_figure(results: Path) -> Figure:
    """Draw two bars a size, the paper's hatched; what the paper leaves unlabelled is the top part.

    Raises:
        StoreError: nothing like the paper's runs was planned.
    """
    plans = load_like_plans(results).to_dict("index")
    printed = load_grid(STEM).to_dict("index")
    models = [model for model in LLAMA_MODELS if model in plans]
    if not models:
        raise StoreError(
            f"{results} has no plans of LLaMA; python run.py experiments=fig6_memory makes them"
        )
    figure = new_figure(height=4.2)
    axes = style_axes(figure.subplots())
    for position, model in enumerate(models):
        bars = compare_bars(plans[model], printed[model])
        for side, hatch in enumerate(HATCHES):
            sizes = {bar: pair[side] for bar, pair in bars.items()}
            _stack(axes, position + (2 * side - 1) * GAP, sizes, hatch=hatch)
    for card in CARDS:
        axes.axhline(card, color=BLACK, linewidth=0.8, linestyle=":")
        axes.annotate(f"{card} GB", (-0.5, card), va="bottom", fontsize=8)
    names = [model.removeprefix("llama_").upper() for model in models]
    axes.set_xticks(range(len(models)), names)
    axes.set_xlabel("LLaMA; left the paper (hatched), right predicted")
    axes.set_ylabel("memory, GB")
    handles = [axes.bar(0, 0, color=colour, label=part) for part, colour in PARTS.items()]
    axes.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(0.08, 0.9))
    return figure


def _stack(axes: Axes, x: float, sizes: dict[str, float], *, hatch: str | None) -> None:
    labelled = {part: sizes[part] for part in PARTS if part in sizes}
    parts = labelled | {"gradients, activations": sizes["total"] - sum(labelled.values())}
    bottom = 0.0
    for part, size in parts.items():
        axes.bar(
            x,
            size,
            WIDTH,
            bottom=bottom,
            color=PARTS[part],
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
        )
        bottom += size
    boxed = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    label = f"{sizes['total']:.1f}"
    axes.text(x, bottom + 0.4, label, ha="center", va="bottom", fontsize=8, bbox=boxed)
