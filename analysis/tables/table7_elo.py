"""Table 7: Elo by human votes and by GPT-4, on the Vicuna and the OA benchmark."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.paper_tables import column as printed_column
from analysis.paper_tables import errata, signed
from analysis.ranking.elo_column import EloColumn, column, of_benchmark, of_humans, ranks, span
from analysis.table import Table

ARTIFACT = "table7_elo"
CLOSE = 1.0  # Elo, human votes and GPT-4 on Vicuna
CLOSE_OA = 2.0
# printed column -> its name, its verdicts, its benchmark, what counts as close
COLUMNS: dict[str, tuple[str, Callable[[], pd.DataFrame], str, float]] = {
    "human_vicuna": ("human, Vicuna", of_humans, "vicuna", CLOSE),
    "gpt4_vicuna": ("GPT-4, Vicuna", lambda: of_benchmark("vicuna"), "vicuna", CLOSE),
    "gpt4_oa": ("GPT-4, OA", lambda: of_benchmark("oa"), "oa", CLOSE_OA),
}
# (column, system) pairs whose printed cells stand in each other's place
EXCHANGED = (("human_vicuna", "chatgpt-3.5"), ("gpt4_vicuna", "guanaco-13b"))


def build(_root: Path) -> Table:
    """Return a row a judge, benchmark and system, from the released verdicts alone."""
    return compare({name: of() for name, (_, of, _, _) in COLUMNS.items()})


def undone() -> dict[str, dict[str, float]]:
    """Return column -> system -> printed rating, the two exchanged cells back in their places."""
    paper = {name: printed_column(ARTIFACT, name) for name in COLUMNS}
    (one, left), (two, right) = EXCHANGED
    paper[one][left], paper[two][right] = paper[two][right], paper[one][left]
    return paper


def compare(verdicts: dict[str, pd.DataFrame]) -> Table:
    """Set ratings beside the printed ones, column by column."""
    rows, notes = [], []
    for name, (title, _, benchmark, close) in COLUMNS.items():
        rated = column(verdicts[name], preset="as_printed", benchmark=benchmark)
        rows += _rows(name, title, rated)
        corrected = undone()[name]
        near = sum(abs(elo - corrected[system]) <= close for system, elo in rated.elo().items())
        notes.append(
            f"{title}: {rated.setting()}, {rated.questions} questions, {rated.missing:,} verdicts "
            f"missing; within {close:g} Elo of the paper on {near} of {len(corrected)} "
            "systems once the exchanged cells are undone"
        )
    notes += [
        "human: the verdict of two or three of a match's three votes, a tie where all differ",
        "corrected: the difference with the two exchanged cells back in their places",
        "interval and rank: 95%, over draws of the questions; the text's K = 32 is that of the OA "
        "column only",
        *errata(ARTIFACT),
    ]
    return Table(
        title="Table 7: Elo by human votes and by GPT-4's verdicts",
        frame=pd.DataFrame(rows),
        notes=notes,
    )


def _rows(name: str, title: str, rated: EloColumn) -> list[dict[str, str]]:
    paper, corrected = printed_column(ARTIFACT, name), undone()[name]
    places = printed_column(ARTIFACT, f"{name}_rank")
    rows = []
    for system, row in rated.rows():
        ours, theirs = row["elo"], paper[system]
        rows.append(
            {
                "judge, benchmark": title,
                "system": system,
                "paper": f"{theirs:.0f}",
                "ours": f"{ours:.1f}",
                "difference": signed(ours - theirs, 1),
                "corrected": signed(ours - corrected[system], 1),
                "interval": span(row),
                "paper's rank": f"{places[system]:.0f}",
                "rank": f"{row['rank']:.0f} ({ranks(row)})",
                "n": f"{rated.matches:,}",
            }
        )
    return rows
