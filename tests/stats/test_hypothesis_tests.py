"""Tests of estimates against scipy, statsmodels and counts by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from qlora_repro.stats.agreement import spearman_rho
from qlora_repro.stats.estimates import (
    Noise,
    estimate_mean,
    levels_with_repeats,
)
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
    adjust_holm,
    assess_equivalence,
    assess_larger_spread,
    assess_paired_superiority,
    assess_rank_correlation,
    assess_superiority,
    detectable_shift,
    null_correlations,
)

ABOUT = ComparisonInfo(part="", unit="", n=8, of="")
RNG = np.random.default_rng(0)
BEFORE, AFTER = RNG.normal(0, 1, (2, 12))


def test_equivalence_of_pairs_is_statsmodels_ttost() -> None:
    found = assess_equivalence(estimate_mean(BEFORE - AFTER), ABOUT, margin=1.5, test="")
    assert found.p_for == pytest.approx(ttost_paired(BEFORE, AFTER, -1.5, 1.5)[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_beyond_either_margin_contradicts_equivalence(sign: int) -> None:
    apart = sign * (BEFORE - AFTER - (BEFORE - AFTER).mean() + 2.0)
    found = assess_equivalence(estimate_mean(apart), ABOUT, margin=0.5, test="")
    beyond = stats.ttest_1samp(sign * apart, 0.5, alternative="greater").pvalue
    assert found.contradicts == pytest.approx(2 * beyond)
    assert found.contradicts < 0.01
    assert found.supports > 0.99
    near = assess_equivalence(estimate_mean(apart), ABOUT, margin=1.9, test="")
    assert near.contradicts > 0.5


def test_superiority_of_pairs_is_scipys_t_test_and_interval() -> None:
    found = assess_superiority(estimate_mean(BEFORE - AFTER), ABOUT, test="")
    known = stats.ttest_rel(BEFORE, AFTER, alternative="greater")
    both = stats.ttest_rel(BEFORE, AFTER).confidence_interval(0.95)
    assert found.p_for == pytest.approx(known.pvalue)
    assert found.p_against == pytest.approx(1 - known.pvalue)
    assert (found.low, found.high) == pytest.approx((both.low, both.high))


def test_sign_flips_of_few_pairs_are_counted_one_by_one() -> None:
    found = assess_paired_superiority(np.arange(1.0, 9.0), ABOUT, resamples=999, fewest=8)
    assert found.p_for == pytest.approx(1 / 2**8)
    few = assess_paired_superiority(np.arange(1.0, 9.0), ABOUT, resamples=999, fewest=12)
    assert few.p_for == pytest.approx(stats.ttest_1samp(np.arange(1.0, 9.0), 0).pvalue / 2)


def test_effects_detectable_by_t_are_those_of_statsmodels() -> None:
    known = TTestPower().solve_power(nobs=15, alpha=0.01, power=0.9, alternative="larger")
    median = math.sqrt(stats.chi2.median(14) / 14)  # of estimated standard errors
    found = detectable_shift(14, alpha=0.01, power=0.9) * median / math.sqrt(15)
    assert found == pytest.approx(known, rel=1e-3)


def test_a_difference_within_the_noise_of_repeated_runs_supports_nothing() -> None:
    values = np.full(20, 0.5) + np.tile([0.01, -0.01], 10)
    floor = Noise(variance=4, df=10).floor(3)
    found = assess_paired_superiority(values, ABOUT, resamples=999, fewest=12, floor=floor)
    assert found.p_for < 0.01
    assert (found.supports, found.contradicts) == (1, 1)


def test_holm_is_statsmodels_holm() -> None:
    ps = [0.001, 0.2, 0.012, 1.0, 0.03, 0.03, 0.5]
    assert adjust_holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])


def test_levels_of_a_grid_are_those_of_analysis_of_variance() -> None:
    cells = RNG.normal(0, 1, (3, 4, 5)) + np.array([0.0, 1.0, 5.0])[:, None, None]
    rows = levels_with_repeats(cells, 0)
    within = cells.var(axis=2, ddof=1).mean()
    assert rows.variance == pytest.approx(within / 20)
    assert rows.df == 48
    found = assess_larger_spread(rows, levels_with_repeats(cells, 1), ABOUT)
    assert found.p_for < 1e-6
    apart = (
        rows.means.var(ddof=1)
        - levels_with_repeats(cells, 1).means.var(ddof=1)
        + within * (1 / 15 - 1 / 20)
    )
    assert found.effect == pytest.approx(math.sqrt(apart))


def test_a_rank_correlation_above_zero_counts_every_order() -> None:
    x = np.arange(7.0)
    y = np.array([1.0, 0, 2, 3, 4, 6, 5])
    found = assess_rank_correlation(
        spearman_rho(x, y), ComparisonInfo(part="", unit="", n=7, of=""), bound=0, above=True
    )
    known = stats.permutation_test(
        (x,),
        lambda shuffled: spearman_rho(shuffled, y),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=math.factorial(7),
    )
    assert found.p_for == pytest.approx(known.pvalue)
    assert len(null_correlations(7)) == math.factorial(7)


def test_too_few_pairs_detect_no_rank_correlation() -> None:
    about = ComparisonInfo(part="", unit="", n=4, of="")
    assert assess_rank_correlation(0.5, about, bound=0, above=True).detect(0.01, 0.8) is None
