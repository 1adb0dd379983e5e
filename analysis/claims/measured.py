"""One comparison: an effect with its interval, two p-values, and what it could have found.

Every test here asks one of three things of an estimate that follows Student's t: is it above
zero, is it below a bound, is it inside a margin on both sides of zero (two one-sided tests).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from scipy import optimize, stats

LEVEL = 0.95
Detect = Callable[[float, float], float | None]  # (alpha, power) -> effect, None: out of reach


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean difference, its standard error and the degrees of freedom of that."""

    effect: float
    se: float
    df: float

    def interval(self) -> tuple[float, float]:
        """Return the 95% interval."""
        half = float(stats.t.isf((1 - LEVEL) / 2, self.df)) * self.se
        return self.effect - half, self.effect + half

    def above(self, bound: float) -> float:
        """Return the one-sided p that the effect is not above a bound."""
        distance = self.effect - bound
        if self.se == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stats.t.sf(distance / self.se, self.df))

    def below(self, bound: float) -> float:
        """Return the one-sided p that the effect is not below a bound."""
        mirrored = Estimate(effect=-self.effect, se=self.se, df=self.df)
        return mirrored.above(-bound)


@dataclass(frozen=True, kw_only=True)
class About:
    """What a reader must know of a comparison beside its numbers."""

    part: str  # "NF4 + DQ against 16-bit LoRA, MMLU (Table 4)"
    unit: str  # of the effect
    n: int
    of: str  # what n counts: "questions", "cells of Table 4"
    seeds: int | None = None  # None: nothing was trained, or the paper does not say
    required: bool = True  # False: shown beside, not part of the verdict
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A comparison that has data."""

    about: About
    test: str
    effect: float
    low: float  # 95% interval
    high: float
    p_for: float  # one-sided: of data as favourable, were the hypothesis just false
    p_against: float  # one-sided: of data as unfavourable, were the hypothesis just true
    bound: float  # what it is compared with: 0, a margin, a correlation
    floor: float | None  # the 95% range of a difference between repeated runs; None: not known
    detect: Detect = field(repr=False, compare=False)
    equivalence: bool = False

    @property
    def under_floor(self) -> bool:
        """Whether repeated runs of one setting differ as much."""
        return self.floor is not None and abs(self.effect) <= self.floor

    @property
    def supports(self) -> float:
        """Return the p that counts for the hypothesis; 1 for a difference within the noise."""
        return 1.0 if self.under_floor and not self.equivalence else self.p_for

    @property
    def contradicts(self) -> float:
        """Return the p that counts against the hypothesis; 1 within the noise."""
        return 1.0 if self.under_floor else self.p_against


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A comparison that has no data."""

    part: str
    needs: str  # what would have to be run or printed
    required: bool = True


Part = Measured | Missing


def superiority(
    found: Estimate,
    about: About,
    *,
    test: str,
    floor: float | None = None,
    p: tuple[float, float] | None = None,
    resamples: int | None = None,
) -> Measured:
    """Ask whether an effect is above zero; `p` (for, against) replaces that of t.

    resamples: that such a p was counted on; None: it is exact.
    """
    low, high = found.interval()
    p_for, p_against = p or (found.above(0), found.below(0))

    def detect(alpha: float, power: float) -> float | None:
        level = scatter(alpha, resamples)
        least = found.se * shift(found.df, alpha=level, power=power)
        if floor is None:
            return least
        return max(least, floor + found.se * float(stats.t.ppf(power, found.df)))

    return Measured(
        about=about,
        test=test,
        effect=found.effect,
        low=low,
        high=high,
        p_for=p_for,
        p_against=p_against,
        bound=0,
        floor=floor,
        detect=detect,
    )


def equivalence(
    found: Estimate, about: About, *, margin: float, test: str, floor: float | None = None
) -> Measured:
    """Ask by two one-sided tests whether an effect lies inside (-margin, margin).

    What it can detect is the smallest margin that it would show were there no difference at all.
    """
    low, high = found.interval()
    outside = 2 * min(found.above(margin), found.below(-margin))  # beyond one of two bounds

    def detect(alpha: float, power: float) -> float | None:
        return found.se * shift(found.df, alpha=alpha, power=(1 + power) / 2)  # both sides must

    return Measured(
        about=about,
        test=f"{test}, two one-sided tests",
        effect=found.effect,
        low=low,
        high=high,
        p_for=max(found.above(-margin), found.below(margin)),
        p_against=min(1.0, outside),
        bound=margin,
        floor=floor,
        detect=detect,
        equivalence=True,
    )


def scatter(alpha: float, resamples: int | None) -> float:
    """Return a level that p-values from so many resamples pass nearly always when theirs is alpha.

    >>> scatter(0.05, None), round(scatter(0.05, 9_500), 4)
    (0.05, 0.0455)
    """
    if resamples is None:
        return alpha
    return max(alpha / 10, alpha - 2 * math.sqrt(alpha * (1 - alpha) / resamples))


def shift(df: float, *, alpha: float, power: float) -> float:
    """Return the effect, in standard errors, that a one-sided t-test finds with this power.

    The standard errors are estimated ones, of which half are below the true one's chi-square
    median: the effect is larger by as much.

    >>> round(shift(math.inf, alpha=0.05, power=0.8), 3)  # 1.645 + 0.842
    2.486
    """
    if not math.isfinite(df):
        return float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    critical = float(stats.t.isf(alpha, df))
    most = 3 * critical + 20
    found: float = optimize.brentq(
        lambda moved: float(stats.nct.sf(critical, df, moved)) - power, 0, most
    )
    return found * math.sqrt(df / float(stats.chi2.median(df)))
