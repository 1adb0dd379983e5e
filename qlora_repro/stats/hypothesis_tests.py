"""What an estimate shows: superiority, equivalence, a larger spread, a rank correlation.

Each test gives an effect with its interval, a p-value for the hypothesis and one against it, and
the effect that it could have detected. An estimate that follows Student's t is asked one of three
things: is it above zero, is it below a bound, is it inside a margin on both sides of zero (two
one-sided tests).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from scipy import optimize, stats

from qlora_repro.stats.estimates import Estimate, FactorLevels, estimate_mean
from qlora_repro.stats.intervals import MAX_VALUES, TAILS, Array, Mask

Detectable = Callable[[float, float], float | None]  # (alpha, power) -> effect; None: none is
EQUAL_SUMS = 1e-12  # relative; equal sums differ in the last bit
EQUAL_CORRELATIONS = 1e-9
MAX_EXACT_PAIRS = 8  # 40,320 orders
SIMULATED_SETS = 4000
ALMOST_ONE = 1 - 1e-6  # a perfect order has no finite value on Fisher's scale


@dataclass(frozen=True, kw_only=True)
class ComparisonInfo:
    """What a reader must know of a comparison beside its numbers."""

    part: str  # "NF4 + DQ against 16-bit LoRA, MMLU (Table 4)"
    unit: str  # of the effect
    n: int
    of: str  # what n counts: "questions", "cells of Table 4"
    seeds: int | None = None  # None: nothing was trained, or the paper does not say
    required: bool = True  # False: shown beside, not part of the verdict
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison that has data."""

    about: ComparisonInfo
    test: str
    effect: float
    low: float  # 95% interval
    high: float
    p_for: float  # one-sided: of data as favourable, were the hypothesis just false
    p_against: float  # one-sided: of data as unfavourable, were the hypothesis just true
    bound: float  # what it is compared with: 0, a margin, a correlation
    floor: float | None = None  # 95% range of a difference between repeated runs; None: not known
    detect: Detectable = field(repr=False, compare=False)
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
class MissingComparison:
    """A comparison that has no data."""

    part: str
    needs: str  # what would have to be run or printed
    required: bool = True


Part = Comparison | MissingComparison  # of the evidence on a finding


def adjust_holm(ps: Sequence[float]) -> Array:
    """Return p-values that hold for all of them at once, in their order (Holm 1979).

    As statsmodels' `multipletests` has them, which stops to collect garbage at every call.

    >>> adjust_holm([0.02, 0.01, 0.5]).tolist()
    [0.04, 0.03, 0.5]
    """
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def assess_superiority(
    estimate: Estimate,
    about: ComparisonInfo,
    *,
    test: str,
    floor: float | None = None,
    p: tuple[float, float] | None = None,
    resamples: int | None = None,
) -> Comparison:
    """Ask whether an effect is above zero.

    Args:
        estimate: The effect.
        about: What is compared.
        test: The name of the test.
        floor: 95% range of a difference between repeated runs.
        p: (for, against), in place of those of t.
        resamples: Which such a p was counted on; None: it is exact.
    """
    low, high = estimate.interval()
    p_for, p_against = p or (estimate.p_above(0), estimate.p_below(0))

    def detect(alpha: float, power: float) -> float | None:
        level = guard_level(alpha, resamples)
        least = estimate.se * detectable_shift(estimate.df, alpha=level, power=power)
        if floor is None:
            return least
        return max(least, floor + estimate.se * float(stats.t.ppf(power, estimate.df)))

    return Comparison(
        about=about,
        test=test,
        effect=estimate.effect,
        low=low,
        high=high,
        p_for=p_for,
        p_against=p_against,
        bound=0,
        floor=floor,
        detect=detect,
    )


def assess_equivalence(
    estimate: Estimate,
    about: ComparisonInfo,
    *,
    margin: float,
    test: str,
    floor: float | None = None,
) -> Comparison:
    """Ask by two one-sided tests whether an effect is inside (-margin, margin).

    What it can detect is the smallest margin that it would show were there no difference at all.
    """
    low, high = estimate.interval()
    outside = 2 * min(estimate.p_above(margin), estimate.p_below(-margin))  # one of two bounds

    def detect(alpha: float, power: float) -> float | None:
        both_sides = (1 + power) / 2  # must show it
        return estimate.se * detectable_shift(estimate.df, alpha=alpha, power=both_sides)

    return Comparison(
        about=about,
        test=f"{test}, two one-sided tests",
        effect=estimate.effect,
        low=low,
        high=high,
        p_for=max(estimate.p_above(-margin), estimate.p_below(margin)),
        p_against=min(1.0, outside),
        bound=margin,
        floor=floor,
        detect=detect,
        equivalence=True,
    )


def assess_paired_superiority(
    differences: Array,
    about: ComparisonInfo,
    *,
    resamples: int,
    fewest: int,
    floor: float | None = None,
    seed: int = 0,
) -> Comparison:
    """Ask by sign flips whether paired differences, (N,), are above zero.

    Args:
        differences: Of pairs.
        about: What is compared.
        resamples: Sign flips, where not all of them are counted.
        fewest: Pairs; flips of fewer are too few to pass a correction for seven findings, and
            there it is a t-test.
        floor: 95% range of a difference between repeated runs.
        seed: Of the flips.
    """
    estimate = estimate_mean(differences)
    if len(differences) < fewest:
        return assess_superiority(estimate, about, test="paired t", floor=floor)
    flips = stats.permutation_test(
        (differences,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, MAX_VALUES // len(differences)),
        rng=np.random.default_rng(seed),
    )
    as_low = flips.null_distribution <= flips.statistic + EQUAL_SUMS * abs(flips.statistic)
    return assess_superiority(
        estimate,
        about,
        test="paired permutation of signs",
        floor=floor,
        p=(float(flips.pvalue), float((as_low.sum() + 1) / (len(as_low) + 1))),
        resamples=None if 2 ** len(differences) <= resamples else resamples,
    )


def assess_larger_spread(
    first: FactorLevels, second: FactorLevels, about: ComparisonInfo
) -> Comparison:
    """Ask whether the levels of `first` differ more than those of `second`.

    These levels are meant and no others. The effect is the signed root of the difference of the
    two variances, a standard deviation in the unit of the score.
    """
    df = min(first.df, second.df)
    variance = first.variance_at(first.spread) + second.variance_at(second.spread)
    estimate = Estimate(effect=first.spread - second.spread, se=math.sqrt(variance), df=df)
    low, high = estimate.interval()

    def detect(alpha: float, power: float) -> float | None:
        needed = detectable_shift(df, alpha=alpha, power=power)
        rest = max(second.spread, 0.0)

        def excess(more: float) -> float:
            total = first.variance_at(rest + more) + second.variance_at(rest)
            return more - needed * math.sqrt(total)

        top = 1.0
        while excess(top) < 0:
            top *= 2
        return math.sqrt(float(optimize.brentq(excess, 0, top)))

    return Comparison(
        about=about,
        test="difference of two variances between levels",
        effect=signed_root(estimate.effect),
        low=signed_root(low),
        high=signed_root(high),
        p_for=estimate.p_above(0),
        p_against=estimate.p_below(0),
        bound=0,
        detect=detect,
    )


def assess_rank_correlation(
    rho: float, about: ComparisonInfo, *, bound: float, above: bool
) -> Comparison:
    """Ask whether the Spearman correlation of `about.n` pairs is above a bound, or below it.

    All orders are counted where there are few pairs and the bound is zero; otherwise the test is
    on Fisher's scale.
    """
    sign = 1 if above else -1
    n = about.n
    z = sign * (_fisher_z(rho) - _fisher_z(bound)) / fisher_stderr(bound, n)
    p = (float(stats.norm.sf(z)), float(stats.norm.cdf(z)))
    exact = bound == 0 and n <= MAX_EXACT_PAIRS
    if exact:
        null = sign * null_correlations(n)
        p = (
            _share_of(null >= sign * rho - EQUAL_CORRELATIONS),
            _share_of(null <= sign * rho + EQUAL_CORRELATIONS),
        )
    half = float(stats.norm.isf(TAILS[0])) * fisher_stderr(rho, n)

    def detect(alpha: float, power: float) -> float | None:
        if exact:
            least = detectable_correlation(n, alpha, power)
            return None if least is None else sign * least
        z_alpha, z_power = float(stats.norm.isf(alpha)), float(stats.norm.ppf(power))

        def excess(true: float) -> float:
            moved = sign * (_fisher_z(true) - _fisher_z(bound))
            return moved - z_alpha * fisher_stderr(bound, n) - z_power * fisher_stderr(true, n)

        if excess(sign * ALMOST_ONE) < 0:
            return None
        return float(optimize.brentq(excess, bound, sign * ALMOST_ONE))

    return Comparison(
        about=about,
        test=f"Spearman's correlation {'above' if above else 'below'} {bound:g}, "
        + ("all orders counted" if exact else "Fisher's z"),
        effect=rho,
        low=math.tanh(_fisher_z(rho) - half),
        high=math.tanh(_fisher_z(rho) + half),
        p_for=p[0],
        p_against=p[1],
        bound=bound,
        detect=detect,
    )


def guard_level(alpha: float, resamples: int | None) -> float:
    """Return a level that p-values from so many resamples pass nearly always when theirs is alpha.

    >>> guard_level(0.05, None), round(guard_level(0.05, 9_500), 4)
    (0.05, 0.0455)
    """
    if resamples is None:
        return alpha
    return max(alpha / 10, alpha - 2 * math.sqrt(alpha * (1 - alpha) / resamples))


def detectable_shift(df: float, *, alpha: float, power: float) -> float:
    """Return the effect, in standard errors, that a one-sided t-test finds with this power.

    The standard errors are estimated ones, of which half are below the true one's chi-square
    median: the effect is larger by as much.

    >>> round(detectable_shift(math.inf, alpha=0.05, power=0.8), 3)  # 1.645 + 0.842
    2.486
    """
    if not math.isfinite(df):
        return float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    critical = float(stats.t.isf(alpha, df))
    shift: float = optimize.brentq(
        lambda moved: float(stats.nct.sf(critical, df, moved)) - power, 0, 3 * critical + 20
    )
    return shift * math.sqrt(df / float(stats.chi2.median(df)))


@cache
def detectable_correlation(n: int, alpha: float, power: float) -> float | None:
    """Return the correlation that counting all orders of n normal pairs finds with this power.

    Fisher's scale is too hopeful for so few: pairs are drawn, the same ones for each correlation.
    """
    null = np.sort(null_correlations(n))
    critical = [
        rho for rho in np.unique(null) if _share_of(null >= rho - EQUAL_CORRELATIONS) <= alpha
    ]
    if not critical:
        return None
    x, noise = np.random.default_rng(0).normal(size=(2, SIMULATED_SETS, n))
    ranks = x.argsort(axis=1).argsort(axis=1)

    def excess(rho: float) -> float:
        r = 2 * math.sin(math.pi / 6 * rho)  # Pearson's of normal pairs
        y = (r * x + math.sqrt(1 - r**2) * noise).argsort(axis=1).argsort(axis=1)
        return _share_of(_rank_correlations(ranks, y) >= critical[0] - EQUAL_CORRELATIONS) - power

    return float(optimize.bisect(excess, 0.0, ALMOST_ONE, xtol=1e-4))


@cache
def null_correlations(n: int) -> Array:
    """Return Spearman's correlation of n ranks with every order of them."""
    orders = np.array(list(itertools.permutations(range(n))), dtype=np.float64)
    return _rank_correlations(orders, orders[0])


def fisher_stderr(rho: float, n: int) -> float:
    """Return the standard error on Fisher's scale (Bonett and Wright 2000, equation 11).

    >>> round(fisher_stderr(0.0, 28), 3)
    0.2
    """
    return math.sqrt((1 + rho**2 / 2) / (n - 3))


def signed_root(square: float) -> float:
    """Return a signed square root: a difference of variances in the unit of the score.

    >>> signed_root(4.0), signed_root(-9.0)
    (2.0, -3.0)
    """
    return math.copysign(math.sqrt(abs(square)), square)


def _fisher_z(rho: float) -> float:
    return math.atanh(float(np.clip(rho, -ALMOST_ONE, ALMOST_ONE)))


def _rank_correlations(x: Array, y: Array) -> Array:
    """Return Spearman's correlation of the ranks in each row."""
    n = x.shape[1]
    return np.asarray(1 - 6 * ((x - y) ** 2).sum(axis=1) / (n * (n**2 - 1)))


def _share_of(marks: Mask) -> float:
    return float(marks.mean())
