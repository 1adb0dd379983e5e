"""Estimates against scipy and closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from qlora_repro.stats.estimates import (
    estimate_crossed_mean,
    estimate_group_difference,
    levels_without_repeats,
    pool_noise,
)
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
)

ABOUT = ComparisonInfo(part="", unit="", n=8, of="")
RNG = np.random.default_rng(0)
BEFORE, AFTER = RNG.normal(0, 1, (2, 12))


def test_two_groups_are_welchs_t_test() -> None:
    found = estimate_group_difference(BEFORE, AFTER[:5])
    known = stats.ttest_ind(BEFORE, AFTER[:5], equal_var=False)
    assert found.df == pytest.approx(known.df)
    assert found.effect / found.se == pytest.approx(known.statistic)


def test_seeds_count_when_only_seeds_vary_and_questions_when_only_questions_do() -> None:
    each = np.array([1.0, 2.0, 4.0])
    by_seed = estimate_crossed_mean(np.repeat(each[:, None], 50, axis=1))
    assert (by_seed.se, by_seed.df) == pytest.approx((each.std(ddof=1) / math.sqrt(3), 2))
    wide = RNG.normal(size=50)
    by_question = estimate_crossed_mean(np.tile(wide, (3, 1)))
    assert by_question.se == pytest.approx(wide.std(ddof=1) / math.sqrt(50))
    assert by_question.df == pytest.approx(49)


def test_noise_of_two_arms_is_that_of_their_difference_by_seed() -> None:
    means = RNG.normal(size=(2, 6))
    noise = pool_noise(means[:, :, None])
    assert noise.variance == pytest.approx((means[0] - means[1]).var(ddof=1))
    half = stats.t.isf(0.025, 5) * math.sqrt(noise.variance / 6)
    assert noise.floor(6) == pytest.approx(half)
    assert math.isnan(pool_noise(means[:, :1, None]).variance)


def test_an_additive_grid_leaves_no_noise() -> None:
    cells = np.add.outer(np.add.outer([0.0, 3.0, 6.0], [0.0, 1.0, 2.0]), [0.0, 0.5, 1.0])
    data, size, epochs = levels_without_repeats(cells)
    assert [levels.df for levels in (data, size, epochs)] == [20] * 3
    assert data.variance == pytest.approx(0, abs=1e-20)
    assert (data.spread, size.spread, epochs.spread) == pytest.approx((9, 1, 0.25))
