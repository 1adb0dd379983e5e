"""One module a table of the paper: `build(root)` reads a results folder and returns a Table."""

from collections.abc import Callable
from pathlib import Path

from analysis.table import Table
from analysis.tables import data_types, fig6_memory, normality, table2_perplexity_by_dtype

TABLES: dict[str, Callable[[Path], Table]] = {
    "data_types": data_types.build,
    "data_types_by_role": data_types.by_role,
    "fig6_memory": fig6_memory.build,
    "normality": normality.build,
    "table2_perplexity_by_dtype": table2_perplexity_by_dtype.build,
}
