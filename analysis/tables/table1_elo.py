"""Table 1: Elo of eight chatbots, GPT-4 judging the Vicuna benchmark."""

from pathlib import Path

import pandas as pd

from analysis.paper_tables import list_errata, load_column
from analysis.ranking.elo import format_ranks, rate_column
from analysis.ranking.tally import pairwise_verdicts
from analysis.table import Table, format_interval, format_signed

STEM = "table1_elo"
CLOSE = 1.0  # Elo
BENCHMARK = "vicuna"


def build_table(_results: Path) -> Table:
    """Return a row a system, from the released verdicts alone, whatever the results folder.

    Ratings under the printed preset and the one that the text states are set beside the paper's.
    """
    paper, verdicts = load_column(STEM, "elo"), pairwise_verdicts(BENCHMARK)
    printed, stated = (
        rate_column(verdicts, preset=preset, benchmark=BENCHMARK)
        for preset in ("as_printed", "as_stated")
    )
    rows = [
        {
            "system": system,
            "paper": f"{paper[system]:.0f}",
            "ours": f"{row['elo']:.1f}",
            "difference": format_signed(row["elo"] - paper[system], 1),
            "interval": format_interval((row["low"], row["high"]), 0),
            "rank": format_ranks(row),
            "above the next": "-" if pd.isna(row["above"]) else f"{row['above']:.2f}",
            f"ours, K = {stated.setting.k:g}": f"{stated.ratings['elo'][system]:.1f}",
            "n": f"{printed.matches:,}",
        }
        for system, row in printed.rows()
    ]
    close = (abs(printed.ratings["elo"] - pd.Series(paper)) <= CLOSE).sum()
    return Table(
        title="Table 1: Elo by GPT-4's verdicts on the Vicuna benchmark",
        frame=pd.DataFrame(rows),
        notes=[
            f"ours: {printed.describe_setting()}; within {CLOSE:g} Elo of the paper on {close} of "
            f"{len(paper)} systems",
            f"erratum: the text states K = {stated.setting.k:g}, which gives the column of that "
            f"name; the printed numbers are those of K = {printed.setting.k:g}",
            f"n: matches with a verdict, on {printed.questions} questions in both orders; "
            f"{printed.missing} replies could not be read",
            f"interval and rank: 95%, over draws of the {printed.questions} questions; the printed "
            "+-1 is the error of a mean over orderings (here "
            f"+-{printed.ratings['error'].max():.2f}) and says nothing of the systems",
            "above the next: the share of those draws in which a system is rated above the next "
            "row's",
            *list_errata(STEM, "memory"),
        ],
    )
