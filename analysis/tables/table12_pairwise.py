"""Table 12: net wins pair by pair, GPT-4 judging the Vicuna benchmark."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.paper_tables import errata, printed, signed
from analysis.ranking.elo_column import of_benchmark
from analysis.ranking.tally import Tally, net_wins, resampled, tally
from analysis.table import Table

ARTIFACT = "table12_pairwise"
CLOSE = 0.01 + 1e-9
REPLICATES = 10_000
LEVEL = (0.025, 0.975)


def build(_root: Path) -> Table:
    """Return a row a pair, from the released verdicts alone, whatever the results folder."""
    return compare(of_benchmark("vicuna"))


def order() -> list[str]:
    """Return the printed systems, as the table lists them: all but GPT-4, the judge."""
    cells = printed(ARTIFACT)
    return list(dict.fromkeys([*cells["row"], *cells["column"]]))


def compare(verdicts: pd.DataFrame) -> Table:
    """Set net wins beside the printed ones, divided as printed and as the caption says."""
    systems = order()
    cells = printed(ARTIFACT).set_index(["row", "column"])["value"].astype(float).to_dict()
    of = tally(verdicts, systems)
    net = net_wins(of.total, len(systems)) / len(of.questions)
    low, high = intervals(of)
    rows, far = [], []
    pairs = list(combinations(range(len(systems)), 2))
    for (i, j), judged in zip(pairs, of.total.sum(axis=1).tolist(), strict=True):
        theirs, ours = cells[systems[i], systems[j]], float(net[i, j])
        far.append(abs(ours - theirs))
        rows.append(
            {
                "system": systems[i],
                "against": systems[j],
                "paper": f"{theirs:.2f}",
                "ours": f"{ours:.2f}",
                "difference": signed(ours - theirs, 3),
                "interval": f"[{low[i, j]:.2f}, {high[i, j]:.2f}]",
                "by the caption": f"{ours * len(of.questions) / judged:.2f}",
                "n": str(judged),
            }
        )
    close = sum(gap <= CLOSE for gap in far)
    notes = [
        f"ours: wins less losses in both orders over the {len(of.questions)} questions; {close} of "
        f"{len(far)} cells agree with the paper to 0.01",
        "by the caption: the same divided by the number of verdicts (n), as the caption says",
        f"n: verdicts in both orders; {of.missing} replies could not be read; interval: 95%, over "
        "draws of the questions",
        "GPT-4, the judge, is left out, as in the paper; the other half is the same with the "
        "opposite sign",
        *errata(ARTIFACT),
    ]
    title = "Table 12: net wins by GPT-4's verdicts on the Vicuna benchmark"
    return Table(title=title, frame=pd.DataFrame(rows), notes=notes)


def draws(of: Tally) -> NDArray[np.float64]:
    """Return net wins a question of REPLICATES draws of the questions: (B, N, N)."""
    rng = np.random.default_rng(0)
    counts = resampled(of.counts, REPLICATES, rng)
    return net_wins(counts, len(of.systems)) / len(of.questions)


def intervals(of: Tally) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95% intervals of net wins a question: two of (N, N)."""
    low, high = np.quantile(draws(of), LEVEL, axis=0)
    return low, high
