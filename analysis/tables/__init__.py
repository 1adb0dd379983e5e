"""One module a table of the paper: `build(root)` reads a results folder and returns a Table."""

from collections.abc import Callable
from pathlib import Path

from analysis.table import Table
from analysis.tables import (
    agreement,
    data_types,
    fig6_memory,
    normality,
    table1_elo,
    table2_perplexity_by_dtype,
    table6_vicuna_vs_chatgpt,
    table7_elo,
    table12_pairwise,
    table13_order,
)

TABLES: dict[str, Callable[[Path], Table]] = {
    "agreement": agreement.build,
    "data_types": data_types.build,
    "data_types_by_role": data_types.by_role,
    "fig6_memory": fig6_memory.build,
    "normality": normality.build,
    "table1_elo": table1_elo.build,
    "table2_perplexity_by_dtype": table2_perplexity_by_dtype.build,
    "table6_vicuna_vs_chatgpt": table6_vicuna_vs_chatgpt.build,
    "table7_elo": table7_elo.build,
    "table12_pairwise": table12_pairwise.build,
    "table13_order": table13_order.build,
}
