"""From scores to estimates: means over seeds and questions, and the spread of a factor's levels.

S seeds, Q questions, K levels of a factor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from qlora_repro.stats.intervals import TAILS, Array, Interval


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean difference, its standard error and the degrees of freedom of that."""

    effect: float
    se: float
    df: float

    def interval(self) -> Interval:
        """Return the 95% interval."""
        half = float(stats.t.isf(TAILS[0], self.df)) * self.se
        return self.effect - half, self.effect + half

    def p_above(self, bound: float) -> float:
        """Return the one-sided p of the hypothesis that the effect is above a bound."""
        distance = self.effect - bound
        if self.se == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stats.t.sf(distance / self.se, self.df))

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of the hypothesis that the effect is below a bound."""
        return Estimate(effect=-self.effect, se=self.se, df=self.df).p_above(-bound)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much the difference of two runs varies from seed to seed, questions being the same."""

    variance: float
    df: float

    def floor(self, seeds: int) -> float:
        """Return the 95% range of a difference of means over so many seeds of one setting."""
        return float(stats.t.isf(TAILS[0], self.df)) * math.sqrt(self.variance / seeds)


def pool_noise(groups: Sequence[Array]) -> Noise:
    """Return the noise of runs: what is left of their means beside group and seed.

    A seed that helps every group cancels in a difference. One seed alone, or one group alone, has
    no noise that could be known: its variance is NaN.

    Args:
        groups: Scores (S, Q) of runs that differ in their seeds only, for each setting; rows are
            the same seeds in all of them.
    """
    means = np.array([scores.mean(axis=1) for scores in groups])  # (groups, S)
    df = (means.shape[0] - 1) * (means.shape[1] - 1)
    if df == 0:
        return Noise(variance=math.nan, df=0)
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    return Noise(variance=2 * float((rest**2).sum()) / df, df=df)


def estimate_mean(differences: Array) -> Estimate:
    """Estimate a mean of paired differences, (N,)."""
    return Estimate(
        effect=float(differences.mean()),
        se=float(differences.std(ddof=1)) / math.sqrt(len(differences)),
        df=len(differences) - 1,
    )


def estimate_crossed_mean(differences: Array, noise: Noise | None = None) -> Estimate:
    """Estimate a mean over both seeds and questions, (S, Q), either drawn from many more.

    The variance of the mean is made of mean squares (two-way random effects), the degrees of
    freedom are Satterthwaite's. Negative components count as zero, so that it errs towards
    caution.

    Args:
        differences: Paired differences of scores.
        noise: Of more groups than two; it knows the seeds' part better than S numbers do.

    Raises:
        ValueError: There are fewer than two seeds or questions.
    """
    seeds, questions = differences.shape
    if seeds < 2 or questions < 2:
        raise ValueError(f"{seeds} seeds and {questions} questions have no variance")
    rows, columns = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - rows[:, None] - columns + rows.mean()
    rest_df = (seeds - 1) * (questions - 1)
    by_rest = float((rest**2).sum()) / rest_df / (seeds * questions)
    between_seeds = noise or Noise(variance=float(rows.var(ddof=1)), df=seeds - 1)
    by_seed = max(between_seeds.variance / seeds, by_rest)
    by_question = max(float(columns.var(ddof=1)) / questions, by_rest)
    variance = by_seed + by_question - by_rest
    spread = by_seed**2 / between_seeds.df + by_question**2 / (questions - 1) + by_rest**2 / rest_df
    df = variance**2 / spread if spread else questions - 1
    return Estimate(effect=float(rows.mean()), se=math.sqrt(variance), df=df)


def estimate_group_difference(first: Array, second: Array) -> Estimate:
    """Estimate the difference of two groups' means without assuming equal variances (Welch)."""
    parts = [float(group.var(ddof=1)) / len(group) for group in (first, second)]
    variance = sum(parts)
    sizes = (len(first), len(second))
    spread = sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    effect = float(first.mean() - second.mean())
    df = variance**2 / spread if spread else sum(sizes) - 2
    return Estimate(effect=effect, se=math.sqrt(variance), df=df)


def average_estimates(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates, each with the same weight."""
    return Estimate(
        effect=float(np.mean([one.effect for one in estimates])),
        se=math.sqrt(sum(one.se**2 for one in estimates)) / len(estimates),
        df=min(one.df for one in estimates),
    )


@dataclass(frozen=True, kw_only=True)
class FactorLevels:
    """The means of a factor's levels, (K,), and the noise of one such mean."""

    means: Array
    variance: float  # of one level's mean, from repeats
    df: float  # of that variance

    @property
    def spread(self) -> float:
        """Return the variance between levels beyond noise; it may come out negative."""
        return float(self.means.var(ddof=1)) - self.variance

    def variance_at(self, spread: float) -> float:
        """Return the variance of `spread` were this the true one (noncentral chi-square)."""
        free = len(self.means) - 1
        return (2 * self.variance**2 + 4 * self.variance * max(spread, 0.0)) / free


def levels_with_repeats(cells: Array, axis: int) -> FactorLevels:
    """Return the levels along an axis of a full grid whose last axis is repeats.

    Noise is what is left of the cells beside their means over repeats.
    """
    repeats = cells.shape[-1]
    rest = cells - cells.mean(axis=-1, keepdims=True)
    df = cells[..., 0].size * (repeats - 1)
    runs = cells.size // cells.shape[axis]  # behind one level's mean
    return FactorLevels(
        means=_level_means(cells, axis), variance=float((rest**2).sum()) / df / runs, df=df
    )


def levels_without_repeats(cells: Array) -> list[FactorLevels]:
    """Return the levels of every axis of a full grid without repeats.

    Noise is what the factors, added up, leave over; their interactions count as noise too.
    """
    fitted = np.full(cells.shape, cells.mean())
    means = [_level_means(cells, axis) for axis in range(cells.ndim)]
    for axis, level in enumerate(means):
        shape = [-1 if k == axis else 1 for k in range(cells.ndim)]
        fitted = fitted + (level - cells.mean()).reshape(shape)
    df = cells.size - 1 - sum(size - 1 for size in cells.shape)
    residual = float(((cells - fitted) ** 2).sum()) / df
    return [
        FactorLevels(means=level, variance=residual * len(level) / cells.size, df=df)
        for level in means
    ]


def _level_means(cells: Array, axis: int) -> Array:
    return np.asarray(cells.mean(axis=tuple(k for k in range(cells.ndim) if k != axis)))
