"""Which of two factors moves a score more: the variance of their levels' means, noise taken out."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from qlora_repro.stats.estimates import About, Estimate, Measured, shift

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Levels:
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


def root(square: float) -> float:
    """Return a signed square root: a difference of variances in the unit of the score.

    >>> root(4.0), root(-9.0)
    (2.0, -3.0)
    """
    return math.copysign(math.sqrt(abs(square)), square)


def more_spread(first: Levels, second: Levels, about: About) -> Measured:
    """Ask whether the levels of `first` lie further apart than those of `second`.

    These levels are meant and no others. The effect is the signed root of the difference of the
    two variances, a standard deviation in the unit of the score.
    """
    difference = first.spread - second.spread
    df = min(first.df, second.df)
    variance = first.variance_at(first.spread) + second.variance_at(second.spread)
    found = Estimate(effect=difference, se=math.sqrt(variance), df=df)
    low, high = found.interval()

    def detect(alpha: float, power: float) -> float | None:
        needed = shift(df, alpha=alpha, power=power)
        rest = max(second.spread, 0.0)

        def lacking(more: float) -> float:
            total = first.variance_at(rest + more) + second.variance_at(rest)
            return more - needed * math.sqrt(total)

        top = 1.0
        while lacking(top) < 0:
            top *= 2
        return math.sqrt(float(optimize.brentq(lacking, 0, top)))

    return Measured(
        about=about,
        test="difference of two variances between levels",
        effect=root(difference),
        low=root(low),
        high=root(high),
        p_for=found.above(0),
        p_against=found.below(0),
        bound=0,
        floor=None,  # noise is taken out of both variances
        detect=detect,
    )


def balanced(cells: Array, axis: int) -> Levels:
    """Return the levels along an axis of a full grid whose last axis is repeats.

    Noise is what is left of the cells beside their means over repeats.
    """
    repeats = cells.shape[-1]
    left = cells - cells.mean(axis=-1, keepdims=True)
    df = cells[..., 0].size * (repeats - 1)
    each = cells.size // cells.shape[axis]  # runs behind one level's mean
    others = tuple(k for k in range(cells.ndim) if k != axis)
    return Levels(means=cells.mean(axis=others), variance=float((left**2).sum()) / df / each, df=df)


def additive(cells: Array) -> list[Levels]:
    """Return the levels of every axis of a full grid without repeats.

    Noise is what the factors, added up, leave over; what they do together counts as noise too.
    """
    fitted = np.full(cells.shape, cells.mean())
    means = []
    for axis in range(cells.ndim):
        others = tuple(k for k in range(cells.ndim) if k != axis)
        level = cells.mean(axis=others)
        means.append(level)
        shape = [-1 if k == axis else 1 for k in range(cells.ndim)]
        fitted = fitted + (level - cells.mean()).reshape(shape)
    df = cells.size - 1 - sum(size - 1 for size in cells.shape)
    residual = float(((cells - fitted) ** 2).sum()) / df
    return [
        Levels(means=level, variance=residual * len(level) / cells.size, df=df) for level in means
    ]
