"""Table 13: the order of the systems that Table 12 comes to."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.paper_tables import column, errata
from analysis.ranking.elo_column import of_benchmark
from analysis.ranking.tally import net_wins, tally
from analysis.table import Table
from analysis.tables.table12_pairwise import LEVEL, REPLICATES, draws, order

ARTIFACT = "table13_order"


def build(_root: Path) -> Table:
    """Return a row a system, from the released verdicts alone, whatever the results folder."""
    return compare(of_benchmark("vicuna"))


def beaten(net: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many systems each beats, a draw counts half: (..., N) of net wins (..., N, N).

    >>> beaten(np.array([[0, 1, 0], [-1, 0, 2], [0, -2, 0]])).tolist()
    [1.5, 1.0, 0.5]
    """
    count: NDArray[np.float64] = (net > 0).sum(axis=-1) + ((net == 0).sum(axis=-1) - 1) / 2
    return count


def places(net: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of each system, 1 the best; equals are told apart by their net wins."""
    score = beaten(net) + net.sum(axis=-1) / (1 + 2 * np.abs(net).sum(axis=-1).max())
    place: NDArray[np.int64] = (-score).argsort(axis=-1).argsort(axis=-1) + 1
    return place


def compare(verdicts: pd.DataFrame) -> Table:
    """Set the places beside the printed ones, and how far other questions would move them."""
    paper, systems = column(ARTIFACT, "place"), order()
    of = tally(verdicts, systems)
    net = net_wins(of.total, len(systems))
    ours, drawn = places(net), places(draws(of))  # (N,), (B, N)
    low, high = np.quantile(drawn, LEVEL, axis=0, method="inverted_cdf")
    rows = [
        {
            "system": system,
            "paper": f"{paper[system]:.0f}",
            "ours": str(ours[at]),
            "difference": f"{ours[at] - paper[system]:+.0f}",
            "interval": f"[{low[at]}, {high[at]}]",
            "beats": f"{beaten(net)[at]:g}",
            "in this place": f"{(drawn[:, at] == ours[at]).mean():.2f}",
            "n": f"{of.total.sum():,}",
        }
        for at, system in enumerate(systems)
    ]
    whole = sorted(beaten(net).tolist()) == list(range(len(systems)))
    same = (drawn == ours).all(axis=1).mean()
    notes = [
        "place: by the number of systems beaten in net wins over both orders; "
        + ("every system beats all below it" if whole else "not every system beats all below it"),
        f"interval: 95%, over {REPLICATES:,} draws of the {len(of.questions)} questions; in this "
        f"place: the share of draws; the whole order comes out in {100 * same:.0f}% of them",
        "Elo has Bard below Guanaco-13B (Table 7), net wins against each have it above",
        *errata(ARTIFACT),
    ]
    title = "Table 13: order of systems by GPT-4's verdicts on the Vicuna benchmark"
    return Table(title=title, frame=pd.DataFrame(rows), notes=notes)
