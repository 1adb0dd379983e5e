"""The normality of weights: judged by scipy, by statsmodels, and by rows of known distributions."""

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests

from qlora_repro.weights.errors import LinearWeight
from qlora_repro.weights.normality import (
    MAX_ROW_LENGTH,
    PROBABILITIES,
    apply_shapiro_wilk,
    measure_normality,
    rejection_shares,
)


def weight(values: np.ndarray, name: str = "model.layers.3.self_attn.q_proj") -> LinearWeight:
    return LinearWeight(name=name, layer=3, role="q", values=torch.tensor(values))


def test_each_rows_p_is_scipys() -> None:
    rng = np.random.default_rng(0)
    values = np.vstack([rng.normal(size=(4, 90)), rng.laplace(size=(4, 90))])
    found = apply_shapiro_wilk(values, rng=rng)
    assert found.p == pytest.approx([stats.shapiro(row).pvalue for row in values])


def test_normal_rows_are_rejected_five_times_in_a_hundred_and_never_stepping_up() -> None:
    weights = [weight(np.random.default_rng(1).normal(3, 2, size=(2000, 96)))]
    records = list(measure_normality(weights, run_id="r", rows=None, seed=0))
    for record in records:
        assert record.rejected == pytest.approx(0.05, abs=0.015)
        assert record.rejected_fdr <= 0.002
        assert record.kurtosis == pytest.approx(0, abs=0.1)


def test_laplace_rows_are_rejected_and_the_control_beside_them_is_not() -> None:
    weights = [weight(np.random.default_rng(1).laplace(size=(400, 400)))]
    records = {
        r.source: r for r in measure_normality(weights, run_id="r", rows=None, seed=0) if r.name
    }
    assert records["weights"].rejected == 1.0
    assert records["weights"].kurtosis == pytest.approx(
        3, abs=0.3
    )  # that of Laplace's distribution
    assert records["normal"].rejected < 0.1


def test_quantiles_of_normal_rows_are_those_of_the_normal_distribution() -> None:
    found = apply_shapiro_wilk(
        np.random.default_rng(2).normal(5, 3, size=(300, 4000)), rng=np.random.default_rng(0)
    )
    inner = slice(3, -3)
    expected = stats.norm.ppf(PROBABILITIES)
    assert found.quantiles[inner] == pytest.approx(expected[inner], abs=0.02)
    assert list(PROBABILITIES) == sorted(PROBABILITIES)


def test_the_shares_equal_statsmodels_on_known_p_values() -> None:
    p = np.array([0.001, 0.012, 0.014, 0.04, 0.06, 0.5, 0.9, 0.3])
    assert rejection_shares(p) == (0.5, 0.375)
    assert multipletests(p, 0.05, method="fdr_bh")[0].mean() == 0.375
    ranked = np.sort(p) <= 0.05 * np.arange(1, 9) / 8  # the step-up rule by its definition
    assert (np.flatnonzero(ranked).max() + 1) / 8 == 0.375


def test_long_rows_are_tested_on_so_many_values_as_scipy_is_accurate_for() -> None:
    values = np.random.default_rng(0).normal(size=(3, MAX_ROW_LENGTH + 500))
    found = apply_shapiro_wilk(values, rng=np.random.default_rng(0))
    assert (found.tested, found.columns) == (MAX_ROW_LENGTH, MAX_ROW_LENGTH + 500)


def test_a_constant_row_is_not_normal_and_a_weight_of_them_has_no_kurtosis() -> None:
    values = np.random.default_rng(0).normal(size=(2, 50))
    values[0] = 0.25
    assert apply_shapiro_wilk(values, rng=np.random.default_rng(0)).p[0] == 0.0
    records = list(measure_normality([weight(np.ones((2, 50)))], run_id="r", rows=None, seed=0))
    first = records[0]
    assert (first.rejected, first.kurtosis, first.quantiles) == (1.0, None, [])


def test_the_whole_model_is_its_rows_together_and_rows_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    weights = [
        weight(rng.normal(size=(60, 40))),
        weight(rng.laplace(size=(200, 80)), "model.layers.4.mlp.up_proj"),
    ]
    records = [
        r for r in measure_normality(weights, run_id="r", rows=50, seed=0) if r.source == "weights"
    ]
    one, two, whole = records
    assert (one.rows, two.rows, whole.rows) == (50, 50, 100)
    assert whole.rejected == pytest.approx((one.rejected + two.rejected) / 2)
    assert (whole.name, whole.role, whole.columns) == ("", "all", 80)
    again = [
        r for r in measure_normality(weights, run_id="r", rows=50, seed=0) if r.source == "weights"
    ]
    assert again == records
