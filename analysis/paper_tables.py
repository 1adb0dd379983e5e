"""The paper's own numbers: `paper/<artifact>.csv`, a row a cell, with its unit and erratum."""

import pandas as pd

from qlora_repro.config.paths import PAPER

TEXTS = ("row", "column", "unit", "erratum")
COLUMNS = ("table", "row", "column", "value", "unit", "erratum")


def printed(artifact: str) -> pd.DataFrame:
    """Return the printed cells of a table or figure: COLUMNS, an erratum is "" where none is known.

    Of Figure 3, whose points are not known, the axis is there.
    """
    frame = pd.read_csv(PAPER / f"{artifact}.csv", dtype=dict.fromkeys(TEXTS, "str"))
    return frame.fillna({"unit": "", "erratum": ""})


def column(artifact: str, name: str) -> dict[str, float]:
    """Return row -> printed value of one column, in the table's order."""
    cells = printed(artifact)
    of = cells[cells["column"] == name]
    return dict(zip(of["row"].tolist(), of["value"].astype(float).tolist(), strict=True))


def errata(artifact: str, only: str = "") -> list[str]:
    """Return a sentence for each known erratum, of one column where that is named."""
    cells = printed(artifact)
    known = cells[(cells["erratum"] != "") & (cells["column"].eq(only) | (not only))]
    said = []
    for what, where in known.groupby("erratum", sort=False):
        rows, columns = (list(dict.fromkeys(where[side])) for side in ("row", "column"))
        whole = len(rows) > 1 and set(rows) == set(cells["row"])
        place = "all rows" if whole else f"{', '.join(rows)}: {', '.join(columns)}"
        said.append(f"erratum, {place}: {what}")
    return said


def signed(difference: float, digits: int) -> str:
    """Return a difference with its sign, and a plain zero.

    >>> signed(-0.04, 1), signed(-0.06, 1)
    ('+0.0', '-0.1')
    """
    return f"{round(difference, digits) + 0.0:+.{digits}f}"
