"""Intervals against closed forms and plain resampling loops."""

import numpy as np
import pytest
from scipy import stats

from qlora_repro.stats.intervals import (
    BootstrapEstimate,
    divide_or_nan,
    draw_prompt_weights,
    estimate_ratio,
    estimate_share,
    tail_probability,
)


def test_each_resample_draws_as_many_prompts_as_there_are() -> None:
    weights = draw_prompt_weights(17, resamples=50, seed=2)
    assert weights.shape == (50, 17)
    assert (weights.sum(axis=1) == 17).all()
    assert len(np.unique(weights, axis=0)) == 50


def test_the_interval_of_a_mean_is_students() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, 60)
    weights = draw_prompt_weights(60, resamples=20_000, seed=1)
    found = estimate_ratio(values, np.ones(60), weights)
    low, high = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04)


def test_tails_widen_with_few_prompts_by_the_missing_factor() -> None:
    reach = stats.norm.isf(tail_probability(10)) * np.sqrt(
        9 / 10
    )  # a bootstrap's variance lacks 10 / 9
    assert reach == pytest.approx(stats.t.isf(0.025, 9))


def test_few_prompts_have_a_value_and_no_interval() -> None:
    found = BootstrapEstimate.from_resamples(0.5, np.array([0.4, 0.6]), prompts=4, n=12)
    assert (found.value, found.low, found.high, found.n) == (0.5, None, None, 12)
    assert found.format() == "0.5 [too few prompts]"


def test_nothing_to_divide_by_is_no_value() -> None:
    assert np.isnan(divide_or_nan(np.array([1.0]), np.array([0.0]))).all()
    found = estimate_ratio(np.zeros(9), np.zeros(9), draw_prompt_weights(9, resamples=5, seed=0))
    assert found.value is None


def test_resamples_without_the_thing_counted_are_left_out() -> None:
    bottom = np.zeros(40)
    bottom[:6] = 1
    found = estimate_ratio(bottom * 0.5, bottom, draw_prompt_weights(40, resamples=500, seed=0))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_a_share_that_no_resample_moves_has_wilsons_interval() -> None:
    weights = draw_prompt_weights(30, resamples=50, seed=0)
    none, every = (
        estimate_share(np.full(30, each), np.full(30, 2.0), weights) for each in (0.0, 2.0)
    )
    known = stats.binomtest(0, 30).proportion_ci(method="wilson")
    assert (none.value, every.value, none.n) == (0, 1, 60)
    assert (none.low, none.high) == pytest.approx((known.low, known.high))
    assert (every.low, every.high) == pytest.approx((1 - known.high, 1 - known.low))
