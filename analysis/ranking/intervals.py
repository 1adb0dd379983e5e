"""How sure a ranking is: ratings of resampled questions, rank intervals, who beats whom.

The paper's +-1 is the Monte-Carlo error of a mean over orderings, and says nothing of the systems.
Other questions would have given other verdicts: questions are drawn anew here, each with all its
verdicts, and every draw is rated over some orderings of its own.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.ranking.elo import EloSetting, Ratings, over_orderings
from analysis.ranking.tally import Tally, resampled

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
# K = 32 has forgotten all but e-10 of what was before the last 2,000 of random matches of a few
# systems, and it forgets in proportion to K: playing more of them costs time and changes nothing.
REMEMBERED = 64_000


@dataclass(frozen=True, kw_only=True)
class Uncertain:
    """Ratings of B draws of the questions, (B, N), without the scatter of their orderings."""

    systems: list[str]
    questions: int  # of each draw
    draws: Ratings

    def interval(self) -> tuple[Ratings, Ratings]:
        """Return the 95% interval of each rating: two of (N,)."""
        low, high = np.quantile(self.draws, TAILS, axis=0)
        return low, high

    def ranks(self) -> NDArray[np.int64]:
        """Return the 95% interval of each rank, 1 the best: (2, N)."""
        rank = (-self.draws).argsort(axis=1).argsort(axis=1) + 1
        bounds = np.quantile(rank, TAILS, axis=0, method="inverted_cdf")
        return bounds.astype(np.int64)

    def beats(self) -> Ratings:
        """Return how often the system of a row is rated above that of a column: (N, N)."""
        above = self.draws[:, :, None] > self.draws[:, None, :]  # (B, N, N)
        share: Ratings = above.mean(axis=0)
        return share


def over_questions(of: Tally, how: EloSetting, *, replicates: int, each: int) -> Uncertain:
    """Rate `replicates` draws of the questions, each over `each` orderings.

    A draw's mean rating still scatters with its orderings. That part of the variance is known, from
    the spread within draws, and is taken out by pulling the draws towards their mean.
    """
    systems, questions = len(of.systems), len(of.questions)
    rng = np.random.default_rng(how.seed)
    counts = resampled(of.counts, replicates, rng)
    there = int(counts.sum(axis=(1, 2)).min())
    remembered = math.ceil(REMEMBERED / how.k)
    if how.matches is None and not how.replacement and remembered < there:
        how = replace(how, matches=remembered)
    lanes = replace(how, orderings=replicates * each)
    rated = over_orderings(np.repeat(counts, each, axis=0), systems, lanes)
    rated = rated.reshape(replicates, each, systems)
    means, centre = rated.mean(axis=1), rated.mean(axis=(0, 1))
    scatter = rated.var(axis=1, ddof=1).mean(axis=0) / each  # (N,) of a mean, by its orderings
    kept = np.sqrt(np.clip(1 - scatter / means.var(axis=0, ddof=1), 0, 1))
    return Uncertain(
        systems=of.systems, questions=questions, draws=centre + (means - centre) * kept
    )
