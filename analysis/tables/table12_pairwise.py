"""Table 12: net wins pair by pair, GPT-4 judging the Vicuna benchmark."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.paper_tables import list_errata, load_cells
from analysis.ranking.tally import (
    Tally,
    count_net_wins,
    count_verdicts,
    pairwise_verdicts,
    resample_counts,
)
from analysis.table import Table, format_interval, format_signed
from qlora_repro.stats.intervals import TAILS, Array, draw_prompt_weights

STEM = "table12_pairwise"
CLOSE = 0.01 + 1e-9
REPLICATES = 10_000


def build_table(_results: Path) -> Table:
    """Return a row a pair, from the released verdicts alone, whatever the results folder."""
    printed, systems = load_cells(STEM), list_printed_systems()
    tally = count_verdicts(pairwise_verdicts("vicuna"), systems)
    questions = len(tally.questions)
    net = count_net_wins(tally.total, len(systems)) / questions
    low, high = np.quantile(resample_net_wins(tally), TAILS, axis=0)
    rows, gaps = [], []
    pairs = combinations(range(len(systems)), 2)
    for (i, j), judged in zip(pairs, tally.total.sum(axis=1).tolist(), strict=True):
        paper, ours = printed[systems[i], systems[j]], float(net[i, j])
        gaps.append(abs(ours - paper))
        rows.append(
            {
                "system": systems[i],
                "against": systems[j],
                "paper": f"{paper:.2f}",
                "ours": f"{ours:.2f}",
                "difference": format_signed(ours - paper, 3),
                "interval": format_interval((low[i, j], high[i, j]), 2),
                "by the caption": f"{ours * questions / judged:.2f}",
                "n": str(judged),
            }
        )
    close = sum(gap <= CLOSE for gap in gaps)
    return Table(
        title="Table 12: net wins by GPT-4's verdicts on the Vicuna benchmark",
        frame=pd.DataFrame(rows),
        notes=[
            f"ours: wins less losses in both orders over the {questions} questions; {close} of "
            f"{len(gaps)} cells agree with the paper to 0.01",
            "by the caption: the same divided by the number of verdicts (n), as the caption says",
            f"n: verdicts in both orders; {tally.missing} replies could not be read; interval: "
            "95%, over draws of the questions",
            "GPT-4, the judge, is left out, as in the paper; the other half is the same with the "
            "opposite sign",
            *list_errata(STEM),
        ],
    )


def list_printed_systems() -> list[str]:
    """Return the printed systems, as the table lists them: all but GPT-4, the judge."""
    rows, columns = zip(*load_cells(STEM), strict=True)
    return list(dict.fromkeys([*rows, *columns]))


def resample_net_wins(tally: Tally) -> Array:
    """Return net wins a question of REPLICATES draws of the questions: (B, N, N)."""
    questions = len(tally.questions)
    weights = draw_prompt_weights(questions, resamples=REPLICATES, seed=0)
    return count_net_wins(resample_counts(tally.counts, weights), len(tally.systems)) / questions
