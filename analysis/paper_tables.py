"""The numbers that the paper prints: `paper/<artifact>.csv`, a row a cell, with unit and erratum.

Everything that compares with the paper reads them here. Of Figure 3, whose points were never
printed, the file holds the axis.
"""

import pandas as pd

from qlora_repro.config.paths import PAPER

TEXTS = ("row", "column", "unit", "erratum")
COLUMNS = ("table", "row", "column", "value", "unit", "erratum")
LLAMA_MODELS = ("llama_7b", "llama_13b", "llama_33b", "llama_65b")
CellKey = tuple[str, str]  # row, column


def load_table(artifact: str) -> pd.DataFrame:
    """Return the printed cells of a table or figure.

    Args:
        artifact: the name of its file, as "table4_mmlu_by_dtype".

    Returns:
        A row a cell in the paper's order, with COLUMNS; `erratum` is "" where none is known.
    """
    frame = pd.read_csv(PAPER / f"{artifact}.csv", dtype=dict.fromkeys(TEXTS, "str"))
    return frame.fillna({"unit": "", "erratum": ""})


def load_cells(artifact: str) -> dict[CellKey, float]:
    """Return (row, column) -> printed value, in the table's order."""
    frame = load_table(artifact)
    keys = zip(frame["row"], frame["column"], strict=True)
    return dict(zip(keys, frame["value"].astype(float), strict=True))


def load_grid(artifact: str) -> pd.DataFrame:
    """Return the values with the paper's rows as index and its columns as columns."""
    frame = load_table(artifact).astype({"value": float})
    return frame.pivot(index="row", columns="column", values="value")


def load_column(artifact: str, column: str) -> dict[str, float]:
    """Return row -> printed value of one column, in the table's order."""
    return {row: value for (row, name), value in load_cells(artifact).items() if name == column}


def list_errata(artifact: str, column: str = "") -> list[str]:
    """Return a sentence for each known erratum, of one column where that is named."""
    cells = load_table(artifact)
    known = cells[(cells["erratum"] != "") & (cells["column"].eq(column) | (not column))]
    sentences = []
    for erratum, affected in known.groupby("erratum", sort=False):
        rows, columns = (list(dict.fromkeys(affected[side])) for side in ("row", "column"))
        everywhere = len(rows) > 1 and set(rows) == set(cells["row"])
        where = "all rows" if everywhere else f"{', '.join(rows)}: {', '.join(columns)}"
        sentences.append(f"erratum, {where}: {erratum}")
    return sentences
