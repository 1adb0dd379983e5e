"""One comparison: an effect with its interval, two p-values, and what it could have found.

Every test here asks one of three things of an estimate that follows Student's t: is it above
zero, is it below a bound, is it inside a margin on both sides of zero (two one-sided tests).

From paired scores to an estimate: questions crossed with seeds, plain pairs, two groups.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
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
