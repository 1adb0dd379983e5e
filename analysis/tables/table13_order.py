"""Table 13: the order of the systems that Table 12 comes to."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.paper_tables import list_errata, load_column
from analysis.ranking.tally import Counts, count_net_wins, count_verdicts, pairwise_verdicts
from analysis.table import Table
from analysis.tables.table12_pairwise import (
    REPLICATES,
    list_printed_systems,
    resample_net_wins,
)
from qlora_repro.stats.intervals import TAILS, Array

STEM = "table13_order"


def build_table(_results: Path) -> Table:
    """Return a row a system, from the released verdicts alone, whatever the results folder."""
    printed, systems = load_column(STEM, "place"), list_printed_systems()
    tally = count_verdicts(pairwise_verdicts("vicuna"), systems)
    net = count_net_wins(tally.total, len(systems))
    beaten, ours = count_beaten(net), rank_by_net_wins(net)  # (N,)
    resampled = rank_by_net_wins(resample_net_wins(tally))  # (B, N)
    low, high = np.quantile(resampled, TAILS, axis=0, method="inverted_cdf")
    rows = [
        {
            "system": system,
            "paper": f"{printed[system]:.0f}",
            "ours": str(ours[k]),
            "difference": f"{ours[k] - printed[system]:+.0f}",
            "interval": f"[{low[k]}, {high[k]}]",
            "beats": f"{beaten[k]:g}",
            "in this place": f"{(resampled[:, k] == ours[k]).mean():.2f}",
            "n": f"{tally.total.sum():,}",
        }
        for k, system in enumerate(systems)
    ]
    transitive = sorted(beaten.tolist()) == list(range(len(systems)))
    same_order = 100 * (resampled == ours).all(axis=1).mean()
    return Table(
        title="Table 13: order of systems by GPT-4's verdicts on the Vicuna benchmark",
        frame=pd.DataFrame(rows),
        notes=[
            "place: by the number of systems beaten in net wins over both orders; "
            + ("" if transitive else "not ")
            + "every system beats all below it",
            f"interval: 95%, over {REPLICATES:,} draws of the {len(tally.questions)} questions; in "
            f"this place: the share of draws; the whole order comes out in {same_order:.0f}% of "
            "them",
            "Elo has Bard below Guanaco-13B (Table 7), net wins against each have it above",
            *list_errata(STEM),
        ],
    )


def count_beaten(net: Array) -> Array:
    """Return how many systems each beats, a draw counts half: (..., N) of net wins (..., N, N).

    >>> count_beaten(np.array([[0, 1, 0], [-1, 0, 2], [0, -2, 0]])).tolist()
    [1.5, 1.0, 0.5]
    """
    count: Array = (net > 0).sum(axis=-1) + ((net == 0).sum(axis=-1) - 1) / 2
    return count


def rank_by_net_wins(net: Array) -> Counts:
    """Return the rank of each system by those it beats, 1 the best; equals by their net wins."""
    score = count_beaten(net) + net.sum(axis=-1) / (1 + 2 * np.abs(net).sum(axis=-1).max())
    rank: Counts = (-score).argsort(axis=-1).argsort(axis=-1) + 1
    return rank
