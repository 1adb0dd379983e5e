"""Table 1: Elo of eight chatbots, GPT-4 judging the Vicuna benchmark."""

from pathlib import Path

import pandas as pd

from analysis.paper_tables import column as printed_column
from analysis.paper_tables import errata, signed
from analysis.ranking.elo_column import column, of_benchmark, ranks, span
from analysis.table import Table

ARTIFACT = "table1_elo"
CLOSE = 1.0  # Elo
BENCHMARK = "vicuna"


def build(_root: Path) -> Table:
    """Return a row a system, from the released verdicts alone, whatever the results folder."""
    return compare(of_benchmark(BENCHMARK))


def compare(verdicts: pd.DataFrame) -> Table:
    """Set ratings under both presets beside the printed ones, with what they are worth."""
    paper = printed_column(ARTIFACT, "elo")
    printed, stated = (
        column(verdicts, preset=preset, benchmark=BENCHMARK)
        for preset in ("as_printed", "as_stated")
    )
    rows = []
    for system, row in printed.rows():
        theirs, again = paper[system], stated.elo()[system]
        rows.append(
            {
                "system": system,
                "paper": f"{theirs:.0f}",
                "ours": f"{row['elo']:.1f}",
                "difference": signed(row["elo"] - theirs, 1),
                "interval": span(row),
                "rank": ranks(row),
                "above the next": "-" if pd.isna(row["above"]) else f"{row['above']:.2f}",
                f"ours, K = {stated.k:g}": f"{again:.1f}",
                "n": f"{printed.matches:,}",
            }
        )
    close = sum(abs(elo - paper[system]) <= CLOSE for system, elo in printed.elo().items())
    notes = [
        f"ours: {printed.setting()}; within {CLOSE:g} Elo of the paper on {close} of {len(paper)} "
        "systems",
        f"erratum: the text states K = {stated.k:g}, which gives the column of that name; the "
        f"printed numbers are those of K = {printed.k:g}",
        f"n: matches with a verdict, on {printed.questions} questions in both orders; "
        f"{printed.missing} replies could not be read",
        f"interval and rank: 95%, over draws of the {printed.questions} questions; the printed +-1 "
        f"is the error of a mean over orderings (here +-{printed.ratings['error'].max():.2f}) and "
        "says nothing of the systems",
        "above the next: the share of those draws in which a system is rated above the next row's",
        *errata(ARTIFACT, "memory"),
    ]
    return Table(
        title="Table 1: Elo by GPT-4's verdicts on the Vicuna benchmark",
        frame=pd.DataFrame(rows),
        notes=notes,
    )
