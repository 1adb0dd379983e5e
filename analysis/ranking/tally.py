"""Verdicts as counts: wins, ties and losses of each pair of systems, question by question.

Q questions, N systems, P = N (N - 1) / 2 pairs in the order of `np.triu_indices(N, 1)`. The three
outcomes of a pair (i, j), i < j: i wins, tie, j wins. In which order a pair was shown is not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlora_repro.stats.intervals import Array, Indices
from qlora_repro.store.verdicts import load_released_verdicts

Counts = NDArray[np.int64]
OUTCOMES = 3  # the first system of the pair wins, tie, the second wins
MATCH = ["question", "first", "second"]


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
        return np.asarray(self.counts.sum(axis=0))


def pairwise_verdicts(benchmark: str) -> pd.DataFrame:
    """Return GPT-4's released pairwise verdicts on a benchmark."""
    frame = load_released_verdicts()
    pairwise = (frame["judge"] == "gpt-4") & (frame["protocol"] == "three_class")
    return frame[pairwise & (frame["benchmark"] == benchmark)]


def human_verdicts() -> pd.DataFrame:
    """Return the released human votes, the majority of the three on each match."""
    frame = load_released_verdicts()
    return take_majority(frame[frame["judge"].str.startswith("human-")])


def count_verdicts(verdicts: pd.DataFrame, systems: Sequence[str] | None = None) -> Tally:
    """Count verdicts of the systems, by default all that occur, in the order of their names.

    Matches with another system are left out.
    """
    names = sorted({*verdicts["first"], *verdicts["second"]}) if systems is None else list(systems)
    matches = verdicts[verdicts["first"].isin(names) & verdicts["second"].isin(names)]
    read = matches[matches["verdict"].notna()]
    questions = sorted(set(matches["question"]))
    first, second = (pd.Index(names).get_indexer(pd.Index(read[k])) for k in ("first", "second"))
    outcome = read["verdict"].map({"first": 0, "tie": 1, "second": 2}).to_numpy(np.int64)
    outcome = np.where(first < second, outcome, OUTCOMES - 1 - outcome)
    question = pd.Index(questions).get_indexer(pd.Index(read["question"]))
    counts = np.zeros((len(questions), len(names) * (len(names) - 1) // 2, OUTCOMES), np.int64)
    np.add.at(counts, (question, pair_indices(len(names))[first, second], outcome), 1)
    missing = len(matches) - len(read)
    return Tally(systems=names, questions=questions, counts=counts, missing=missing)


def pair_indices(n: int) -> Indices:
    """Return the number of the pair of two systems, in either order: (N, N), 0 on the diagonal.

    >>> pair_indices(3).tolist()
    [[0, 0, 1], [0, 0, 2], [1, 2, 0]]
    """
    first, second = np.triu_indices(n, 1)
    indices = np.zeros((n, n), dtype=np.intp)
    indices[first, second] = indices[second, first] = np.arange(len(first))
    return indices


def resample_counts(counts: Counts, weights: Array) -> Counts:
    """Return counts (B, P, 3) of resampled questions.

    A question is drawn with all its verdicts: they are about the same answers, so not independent.

    Args:
        counts: Of each question, (Q, P, 3).
        weights: How often each resample draws a question, (B, Q).
    """
    sums = weights @ counts.reshape(len(counts), -1)  # exact: small integers
    return sums.astype(np.int64).reshape(len(weights), *counts.shape[1:])


def count_net_wins(counts: Counts, n: int) -> Array:
    """Return wins less losses of the row's system against the column's.

    `counts` are (..., P, 3) as of `count_verdicts`; the result is (..., N, N), antisymmetric.
    """
    net = (counts[..., 0] - counts[..., 2]).astype(np.float64)
    sign = np.triu(np.ones((n, n)), 1) - np.tril(np.ones((n, n)), -1)
    return np.asarray(net[..., pair_indices(n)] * sign)


def take_majority(votes: pd.DataFrame) -> pd.DataFrame:
    """Return one row a match, with the verdict that more votes give than any other.

    Votes without one, as first, second and tie each once, are a tie: of "first" and "second"
    neither has more. Missing votes count for nothing; a match of missing votes only has none.
    """
    read = votes[votes["verdict"].notna()]
    counts = pd.crosstab([read[name] for name in MATCH], read["verdict"])
    most = counts.max(axis=1)
    shared = counts.eq(most, axis=0).sum(axis=1) > 1
    verdict = counts.idxmax(axis=1).where(~shared, "tie").rename("verdict")
    matches = votes.drop_duplicates(MATCH).drop(columns="verdict")
    return matches.merge(verdict.reset_index(), on=MATCH, how="left")
