"""Pair by pair: net wins as in Tables 12 and 13, and a majority of votes as one verdict."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.ranking.tally import Counts, pair_numbers

MATCH = ["question", "first", "second"]


def net_wins(counts: Counts, n: int) -> NDArray[np.float64]:
    """Return wins less losses of the row's system against the column's.

    `counts` are (..., P, 3) as of `tally`; the result is (..., N, N), antisymmetric.
    """
    net = (counts[..., 0] - counts[..., 2]).astype(np.float64)
    square = net[..., pair_numbers(n)]
    sign = np.triu(np.ones((n, n)), 1) - np.tril(np.ones((n, n)), -1)
    signed: NDArray[np.float64] = square * sign
    return signed


def majority(votes: pd.DataFrame) -> pd.DataFrame:
    """Return one row a match, with the verdict that more votes give than any other.

    Votes without one, as first, second and tie each once, are a tie: of "first" and "second"
    neither has more. Missing votes count for nothing; a match of missing votes only has none.
    """
    said = votes[votes["verdict"].notna()]
    counted = pd.crosstab([said[name] for name in MATCH], said["verdict"])
    most = counted.max(axis=1)
    shared = counted.eq(most, axis=0).sum(axis=1) > 1
    verdict = counted.idxmax(axis=1).where(~shared, "tie").rename("verdict")
    matches = votes.drop_duplicates(MATCH).drop(columns="verdict")
    joined: pd.DataFrame = matches.merge(verdict.reset_index(), on=MATCH, how="left")
    return joined
