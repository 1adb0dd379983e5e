"""Verdicts as counts: wins, ties and losses of each pair of systems, question by question.

Q questions, N systems, P = N (N - 1) / 2 pairs in the order of `np.triu_indices(N, 1)`. The three
outcomes of a pair (i, j), i < j: i wins, tie, j wins. In which order a pair was shown is not kept.

Pair by pair: net wins as in Tables 12 and 13, and a majority of votes as one verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Counts = NDArray[np.int64]
OUTCOMES = 3  # the first system of the pair wins, tie, the second wins


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of verdicts; verdicts that are missing are counted apart."""

    systems: list[str]
    questions: list[str]
    counts: Counts  # (Q, P, 3)
    missing: int

    @property
    def total(self) -> Counts:
        """Return the counts over all questions: (P, 3)."""
        summed: Counts = self.counts.sum(axis=0)
        return summed


def tally(verdicts: pd.DataFrame, systems: Sequence[str] | None = None) -> Tally:
    """Count verdicts of the systems, by default all that occur, in the order of their names.

    Matches with another system are left out.
    """
    named = sorted({*verdicts["first"], *verdicts["second"]}) if systems is None else list(systems)
    of = verdicts[verdicts["first"].isin(named) & verdicts["second"].isin(named)]
    said = of[of["verdict"].notna()]
    questions = sorted(set(of["question"]))
    first, second = (
        pd.Index(named).get_indexer(pd.Index(said[side])) for side in ("first", "second")
    )
    outcome = said["verdict"].map({"first": 0, "tie": 1, "second": 2}).to_numpy(np.int64)
    outcome = np.where(first < second, outcome, OUTCOMES - 1 - outcome)
    asked = pd.Index(questions).get_indexer(pd.Index(said["question"]))
    pair = pair_numbers(len(named))[first, second]
    shape = (len(questions), len(named) * (len(named) - 1) // 2, OUTCOMES)
    flat = np.ravel_multi_index((asked, pair, outcome), shape)
    counts = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)
    missing = len(of) - len(said)
    return Tally(systems=named, questions=questions, counts=counts, missing=missing)


def pair_numbers(n: int) -> NDArray[np.intp]:
    """Return the number of the pair of two systems, in either order: (N, N), 0 on the diagonal.

    >>> pair_numbers(3).tolist()
    [[0, 0, 1], [0, 0, 2], [1, 2, 0]]
    """
    first, second = np.triu_indices(n, 1)
    numbers = np.zeros((n, n), dtype=np.intp)
    numbers[first, second] = numbers[second, first] = np.arange(len(first))
    return numbers


def resampled(counts: Counts, replicates: int, rng: np.random.Generator) -> Counts:
    """Return counts (B, P, 3) of B draws, each of as many questions as there are, (Q, P, 3).

    A question is drawn with all its verdicts: they are about the same answers, so not independent.
    """
    questions, *shape = counts.shape
    draws = rng.multinomial(questions, np.full(questions, 1 / questions), size=replicates)  # (B, Q)
    summed = draws.astype(np.float64) @ counts.reshape(questions, -1)  # exact: small integers
    return summed.astype(np.int64).reshape(replicates, *shape)


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
