"""Table 7: Elo by human votes and by GPT-4, on the Vicuna and the OA benchmark."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.paper_tables import list_errata, load_column
from analysis.ranking.elo import EloColumn, format_ranks, rate_column
from analysis.ranking.tally import human_verdicts, pairwise_verdicts
from analysis.table import Table, format_interval, format_signed

STEM = "table7_elo"


class RatedColumn(NamedTuple):
    """A printed column and the verdicts that it is made of."""

    title: str
    load_verdicts: Callable[[], pd.DataFrame]
    benchmark: str
    close: float  # Elo


COLUMNS = {
    "human_vicuna": RatedColumn("human, Vicuna", human_verdicts, "vicuna", 1),
    "gpt4_vicuna": RatedColumn("GPT-4, Vicuna", partial(pairwise_verdicts, "vicuna"), "vicuna", 1),
    "gpt4_oa": RatedColumn("GPT-4, OA", partial(pairwise_verdicts, "oa"), "oa", 2),
}
# (column, system) pairs whose printed cells stand in each other's place
EXCHANGED = (("human_vicuna", "chatgpt-3.5"), ("gpt4_vicuna", "guanaco-13b"))


def build_table(_results: Path) -> Table:
    """Return a row a judge, benchmark and system, from the released verdicts alone."""
    rows, notes = [], []
    for name, corrected in correct_ratings().items():
        column = COLUMNS[name]
        rated = rate_column(column.load_verdicts(), preset="as_printed", benchmark=column.benchmark)
        rows += _rows_of_column(name, rated, corrected)
        close = (abs(rated.ratings["elo"] - pd.Series(corrected)) <= column.close).sum()
        notes.append(
            f"{column.title}: {rated.describe_setting()}, {rated.questions} questions, "
            f"{rated.missing:,} verdicts missing; within {column.close:g} Elo of the paper on "
            f"{close} of {len(corrected)} systems once the exchanged cells are undone"
        )
    return Table(
        title="Table 7: Elo by human votes and by GPT-4's verdicts",
        frame=pd.DataFrame(rows),
        notes=[
            *notes,
            "human: the verdict of two or three of a match's three votes, a tie where all differ",
            "corrected: the difference with the two exchanged cells back in their places",
            "interval and rank: 95%, over draws of the questions; the text's K = 32 is that of the "
            "OA column only",
            *list_errata(STEM),
        ],
    )


def correct_ratings() -> dict[str, dict[str, float]]:
    """Return column -> system -> printed rating, the two exchanged cells back in their places."""
    printed = {name: load_column(STEM, name) for name in COLUMNS}
    (one, left), (two, right) = EXCHANGED
    printed[one][left], printed[two][right] = printed[two][right], printed[one][left]
    return printed


def _rows_of_column(
    name: str, rated: EloColumn, corrected: Mapping[str, float]
) -> list[dict[str, str]]:
    printed, ranks = load_column(STEM, name), load_column(STEM, f"{name}_rank")
    return [
        {
            "judge, benchmark": COLUMNS[name].title,
            "system": system,
            "paper": f"{printed[system]:.0f}",
            "ours": f"{row['elo']:.1f}",
            "difference": format_signed(row["elo"] - printed[system], 1),
            "corrected": format_signed(row["elo"] - corrected[system], 1),
            "interval": format_interval((row["low"], row["high"]), 0),
            "paper's rank": f"{ranks[system]:.0f}",
            "rank": f"{row['rank']:.0f} ({format_ranks(row)})",
            "n": f"{rated.matches:,}",
        }
        for system, row in rated.rows()
    ]
