"""Figure 6: stacked bars of memory by model size, the paper's beside the predicted ones."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.tables.fig6_memory import STEM, compare_bars, load_like_plans
from qlora_repro.errors import StoreError

REST = "gradients, activations"  # what the paper leaves unlabelled
PARTS = {"model": style.BLUE, "adapters": style.ORANGE, "optimizer": style.GREEN, REST: style.GREY}
CARDS = (24, 48)  # GB
WIDTH, GAP = 0.36, 0.2  # of a bar, and of the two bars' centres from the tick
HATCHES = ("//", None)  # the paper's, ours


def draw_figure(results: Path) -> Figure:
    """Draw two bars a size, the paper's hatched; what the paper leaves unlabelled is the top part.

    Raises:
        StoreError: nothing like the paper's runs was planned.
    """
    bars = compare_bars(load_like_plans(results))
    if not bars:
        raise StoreError(
            f"{results} has no plans of LLaMA; python run.py experiments={STEM} makes them"
        )
    figure, (axes,) = style.new_panels(height=4.2)
    for position, compared in enumerate(bars.values()):
        for side, hatch in enumerate(HATCHES):
            sizes = {bar: pair[side] for bar, pair in compared.items()}
            _stack_parts(axes, position + (2 * side - 1) * GAP, sizes, hatch=hatch)
    for card in CARDS:
        axes.axhline(card, color=style.BLACK, linewidth=0.8, linestyle=":")
        axes.annotate(f"{card} GB", (-0.5, card), va="bottom", fontsize=8)
    axes.set_xticks(range(len(bars)), [model.removeprefix("llama_").upper() for model in bars])
    axes.set_xlabel("LLaMA; left the paper (hatched), right predicted")
    axes.set_ylabel("memory, GB")
    handles = [axes.bar(0, 0, color=colour, label=part) for part, colour in PARTS.items()]
    axes.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(0.08, 0.9))
    return figure


def _stack_parts(axes: Axes, x: float, sizes: dict[str, float], *, hatch: str | None) -> None:
    labelled = {part: sizes[part] for part in PARTS if part in sizes}
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.5}
    bottom = 0.0
    for part, size in (labelled | {REST: sizes["total"] - sum(labelled.values())}).items():
        axes.bar(x, size, WIDTH, bottom, color=PARTS[part], hatch=hatch, **edge)
        bottom += size
    boxed = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    label = f"{sizes['total']:.1f}"
    axes.text(x, bottom + 0.4, label, ha="center", va="bottom", fontsize=8, bbox=boxed)
