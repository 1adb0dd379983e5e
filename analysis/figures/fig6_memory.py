"""Figure 6: stacked bars of memory by model size, the paper's beside the predicted ones."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, page, plain
from analysis.tables.fig6_memory import bars, paper_bars, plans
from qlora_repro.errors import StoreError

PARTS = {"model": BLUE, "adapters": ORANGE, "optimizer": GREEN, "gradients, activations": GREY}
CARDS = (24, 48)  # GB
WIDTH, GAP = 0.36, 0.2  # of a bar, and of the two bars' centres from the tick
HATCHES = ("//", None)  # the paper's, ours


def draw(root: Path) -> Figure:
    """Draw two bars a size, the paper's hatched; what the paper leaves unlabelled is the top part.

    Raises StoreError where nothing like the paper's runs was planned.
    """
    found, paper = plans(root), paper_bars()
    sizes = [model for model in paper.index if model in found.index]
    if not sizes:
        raise StoreError(
            f"{root} has no plans of LLaMA; python run.py experiments=fig6_memory makes them"
        )
    figure = page(height=4.2)
    axes = plain(figure.subplots())
    for place, model in enumerate(sizes):
        both = bars(found.loc[model], paper.loc[model])
        for side in (0, 1):
            sizes_of = {bar: pair[side] for bar, pair in both.items()}
            _stack(axes, place + (2 * side - 1) * GAP, sizes_of, hatch=HATCHES[side])
    for card in CARDS:
        axes.axhline(card, color=BLACK, linewidth=0.8, linestyle=":")
        axes.annotate(f"{card} GB", (-0.5, card), va="bottom", fontsize=8)
    names = [model.removeprefix("llama_").upper() for model in sizes]
    axes.set_xticks(range(len(sizes)), names)
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
