"""The figures, a module each: `draw_figure(results)` reads a results folder and draws it.

`style` holds what they share: colours by data type, empty figures, panels of runs. Numbers are
computed in `analysis.tables`, figures only draw them. Figures of an audit are in
`analysis.judge_audit`.
"""

from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {  # of every figure, in their order
    "fig2_lora_coverage": "Figure 2: a score by where LoRA goes, a point a seed; the paper's "
    "points on the left.",
    "fig3_zeroshot_by_bits": "Figure 3: mean zero-shot accuracy against the bits of the whole "
    "model, a line a data type.",
    "fig4_lora_rank": "Figure 4: a score by the rank of adapters, a point a seed; the paper's runs "
    "on the left.",
    "fig6_memory": "Figure 6: stacked bars of memory by model size, the paper's beside the "
    "predicted ones.",
    "normality": "Are weights normal? Their quantiles against the normal ones, and where the test "
    "rejects.",
    "codebooks": "The levels of each data type on a number line, above the density that they are "
    "to cover.",
    "error_by_blocksize": "The error of each data type against the block size, on normal and on "
    "real weights.",
    "sram_quantiles": "How far means of chunks' quantiles are from the sample's own, against the "
    "chunks averaged.",
}
OF_DATA_TYPES = ("codebooks", "error_by_blocksize", "sram_quantiles")  # one module draws these
# name -> its function; matplotlib is imported when a figure is drawn
FIGURES = {name: f"{__name__}.{name}:draw_figure" for name in CAPTIONS} | {
    name: f"{__name__}.data_types:draw_{name}" for name in OF_DATA_TYPES
}


def draw_figure(name: str, results: Path) -> "Figure":
    """Return a figure by its name.

    Args:
        name: one of FIGURES.
        results: where runs were written to, or the packed evidence.

    Raises:
        StoreError: no run there has what the figure shows.
    """
    return cast("Figure", resolve_name(FIGURES[name])(results))
