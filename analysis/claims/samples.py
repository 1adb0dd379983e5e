"""From paired scores to an estimate: questions crossed with seeds, plain pairs, two groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.claims.measured import LEVEL, About, Estimate, Measured, superiority

Array = NDArray[np.float64]
CELLS = 2_000_000  # drawn at once, so that long benchmarks do not fill the memory
TINY = 1e-12  # equal sums differ in the last bit


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much the difference of two runs varies from seed to seed, questions being the same."""

    variance: float
    df: float

    def floor(self, seeds: int) -> float:
        """Return the 95% range of a difference of means over so many seeds of one setting."""
        return float(stats.t.isf((1 - LEVEL) / 2, self.df)) * math.sqrt(self.variance / seeds)


def pooled_noise(means: Array) -> Noise:
    """Return the noise of runs, (arms, S): what is left of their means beside arm and seed.

    Seeds are rows of the same number in every arm; a seed that helps every arm cancels in a
    difference. One seed alone has no noise that could be known: its variance is NaN.
    """
    arms, seeds = means.shape
    df = (arms - 1) * (seeds - 1)
    if df == 0:
        return Noise(variance=math.nan, df=0)
    left = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    return Noise(variance=2 * float((left**2).sum()) / df, df=df)


def crossed(differences: Array, noise: Noise | None = None) -> Estimate:
    """Estimate a mean over both seeds and questions, (S, Q), either drawn from many more.

    The variance of the mean is made of mean squares (two-way random effects), the degrees of
    freedom are Satterthwaite's. Negative components count as zero, so that it errs towards
    caution. `noise` of more arms than two knows the seeds' part better than S numbers do.
    """
    seeds, questions = differences.shape
    if seeds < 2 or questions < 2:
        raise ValueError(f"{seeds} seeds and {questions} questions have no variance")
    rows, columns = differences.mean(axis=1), differences.mean(axis=0)
    left = differences - rows[:, None] - columns + rows.mean()
    both = (seeds - 1) * (questions - 1)
    rest = float((left**2).sum()) / both / (seeds * questions)
    own = noise or Noise(variance=float(rows.var(ddof=1)), df=seeds - 1)
    by_seed = max(own.variance / seeds, rest)
    by_question = max(float(columns.var(ddof=1)) / questions, rest)
    variance = by_seed + by_question - rest
    spread = by_seed**2 / own.df + by_question**2 / (questions - 1) + rest**2 / both
    df = variance**2 / spread if spread else questions - 1
    return Estimate(effect=float(rows.mean()), se=math.sqrt(variance), df=df)


def plain(differences: Array) -> Estimate:
    """Estimate a mean of paired differences, (N,)."""
    n = len(differences)
    se = float(differences.std(ddof=1)) / math.sqrt(n)
    return Estimate(effect=float(differences.mean()), se=se, df=n - 1)


def two_groups(first: Array, second: Array) -> Estimate:
    """Estimate the difference of two groups' means without assuming equal variances (Welch)."""
    parts = [float(group.var(ddof=1)) / len(group) for group in (first, second)]
    variance = sum(parts)
    sizes = (len(first), len(second))
    spread = sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    effect = float(first.mean() - second.mean())
    df = variance**2 / spread if spread else sum(sizes) - 2
    return Estimate(effect=effect, se=math.sqrt(variance), df=df)


def paired_superiority(
    differences: Array,
    about: About,
    *,
    resamples: int,
    fewest: int,
    floor: float | None = None,
    seed: int = 0,
) -> Measured:
    """Ask by sign flips whether paired differences, (N,), are above zero.

    Flips of fewer than `fewest` pairs are too few to pass a correction for seven findings: there
    it is a t-test.
    """
    found = plain(differences)
    if len(differences) < fewest:
        return superiority(found, about, test="paired t", floor=floor)
    p = _flipped(differences, resamples=resamples, seed=seed)
    counted = None if 2 ** len(differences) <= resamples else resamples
    test = "paired permutation of signs"
    return superiority(found, about, test=test, floor=floor, p=p, resamples=counted)


def _flipped(differences: Array, *, resamples: int, seed: int) -> tuple[float, float]:
    """Return the one-sided p of a mean that is above zero, and of one that is below."""
    done = stats.permutation_test(
        (differences,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, CELLS // len(differences)),
        rng=np.random.default_rng(seed),
    )
    as_low = done.null_distribution <= done.statistic + TINY * abs(done.statistic)
    return float(done.pvalue), float((as_low.sum() + 1) / (len(as_low) + 1))


def stacked(arms: Sequence[Array]) -> Array:
    """Return the run means (arms, S) of scores (S, Q) each."""
    return np.array([arm.mean(axis=1) for arm in arms])
