"""One module a figure: `draw(root)` reads a results folder and returns a matplotlib Figure."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures import (
    codebooks,
    error_by_blocksize,
    fig2_lora_coverage,
    fig3_zeroshot_by_bits,
    fig4_lora_rank,
    fig6_memory,
    normality,
    sram_quantiles,
)

FIGURES: dict[str, Callable[[Path], Figure]] = {
    "fig2_lora_coverage": fig2_lora_coverage.draw,
    "fig3_zeroshot_by_bits": fig3_zeroshot_by_bits.draw,
    "fig4_lora_rank": fig4_lora_rank.draw,
    "fig6_memory": fig6_memory.draw,
    "normality": normality.draw,
    "codebooks": codebooks.draw,
    "error_by_blocksize": error_by_blocksize.draw,
    "sram_quantiles": sram_quantiles.draw,
}
