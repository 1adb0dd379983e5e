"""The tables, a module each: `build_table(results)` reads a results folder and returns a Table.

A module is named after the paper's table or figure whose numbers it sets ours beside; the others
(`agreement`, `data_types`, `judged_runs`, `learning_rates`, `normality`) are of no single one. Most
tables of scores are data for the engine in `analysis.artifacts`; start with
`table4_mmlu_by_dtype`. Figures are in `analysis.figures`, printed numbers in
`analysis.paper_tables`.
"""

from pathlib import Path
from pkgutil import resolve_name
from typing import cast

from analysis.table import Table

NAMES = (
    "fig2_lora_coverage",
    "fig3_zeroshot_by_bits",
    "fig4_lora_rank",
    "fig6_memory",
    "table1_elo",
    "table2_perplexity_by_dtype",
    "table3_glue_superni_by_dtype",
    "table4_mmlu_by_dtype",
    "table5_mmlu_by_dataset",
    "table6_vicuna_vs_chatgpt",
    "table7_elo",
    "table8_crows_bias",
    "table9_hyperparameters",
    "table10_train_on_source",
    "table11_dataset_size",
    "table12_pairwise",
    "table13_order",
    "judged_runs",
    "learning_rates",
    "normality",
    "agreement",
    "data_types",
)
# name -> its function; a table's module is imported when the table is built
TABLES = {name: f"analysis.tables.{name}:build_table" for name in NAMES} | {
    "data_types_by_role": "analysis.tables.data_types:build_table_by_role"
}


def build_table(name: str, results: Path) -> Table:
    """Return a table by its name.

    Args:
        name: one of TABLES.
        results: where runs were written to, or the packed evidence.

    Raises:
        StoreError: there is nothing at `results`, and the table is of runs.
    """
    return cast(Table, resolve_name(TABLES[name])(results))
