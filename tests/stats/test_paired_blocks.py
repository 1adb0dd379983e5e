"""Blocks of consecutive tokens: what dependence between neighbours does to intervals and tests."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qlora_repro.records import Answer
from qlora_repro.stats import intervals, paired


def answers(values: NDArray[np.float64]) -> list[Answer]:
    return [
        Answer(run_id="r", task="t", name="nll", doc_id=k, doc_hash=f"h{k}", value=float(value))
        for k, value in enumerate(values)
    ]


def autoregressive(rng: np.random.Generator, n: int, *, rho: float) -> NDArray[np.float64]:
    """Values of variance 1 whose neighbours correlate by rho."""
    noise = rng.normal(size=n) * np.sqrt(1 - rho**2)
    values = [rng.normal()]
    for step in noise[1:]:
        values.append(rho * values[-1] + step)
    return np.array(values)


def test_blocks_of_copies_give_the_interval_of_the_values_copied() -> None:
    values = np.random.default_rng(0).normal(size=80)
    copied = intervals.mean_interval(values.repeat(16), block=16)
    assert copied == pytest.approx(intervals.mean_interval(values))
    low, high = intervals.mean_interval(values.repeat(16))
    assert (high - low) * 4 == pytest.approx(
        copied[1] - copied[0], rel=0.05
    )  # too narrow: root of 16


def test_blocks_of_one_are_single_values() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert intervals.mean_interval(values, block=1) == intervals.mean_interval(values)


def test_a_short_last_block_weighs_by_its_length() -> None:
    low, high = intervals.mean_interval(np.array([1.0] * 10 + [0.0] * 2), block=10)
    assert (low, high) == (0.0, 1.0)
    even = intervals.mean_interval(np.full(25, 0.5), block=10)
    assert even == (0.5, 0.5)


def test_blocks_cover_the_mean_of_dependent_values_where_single_ones_do_not() -> None:
    rng = np.random.default_rng(5)
    covered = {1: 0, 64: 0}
    for trial in range(100):
        values = autoregressive(rng, 3200, rho=0.8)
        for block in covered:
            low, high = intervals.mean_interval(values, block=block, seed=trial)
            covered[block] += low <= 0 <= high
    assert covered[64] >= 88
    assert covered[1] <= 65  # about 0.49: the true error is 3 times what single values suggest


def test_a_paired_test_by_blocks_finds_no_difference_in_dependent_noise() -> None:
    rng = np.random.default_rng(9)
    wrong = {1: 0, 64: 0}
    for _ in range(60):
        noise = autoregressive(rng, 1280, rho=0.9)
        before = rng.normal(size=1280)
        for block in wrong:
            found = paired.compare_answers(answers(before), answers(before + noise), block=block)
            wrong[block] += found.verdict != "not resolved"
    assert wrong[64] <= 8
    assert wrong[1] >= 20


def test_scores_of_0_and_1_in_blocks_take_the_sign_flip_test() -> None:
    rng = np.random.default_rng(1)
    before, after = (rng.integers(0, 2, 64).astype(float) for _ in range(2))
    found = paired.compare_answers(answers(before), answers(after), block=8)
    assert found.test == "sign flip"
    assert found.difference == pytest.approx((after - before).mean())
    sums = (after - before).reshape(8, 8).sum(axis=1)
    assert found.p == paired.sign_flip_p(sums)
