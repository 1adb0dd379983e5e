"""Bradley-Terry against an optimiser and a logistic regression that know nothing of it."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize

from analysis.ranking.bradley_terry import (
    ELO_PER_LOG,
    MEAN_ELO,
    find_comparable,
    fit_bradley_terry,
    is_order_identifiable,
    rank_systems,
)
from qlora_repro.stats.intervals import Array, draw_prompt_weights

NAMES = ("one", "two", "three", "four")


def drawn(*, prompts: int, size: int, seed: int = 0) -> Array:
    """Return verdicts of every kind on every ordered pair, (Q, S, S, 3)."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, (prompts, size, size, 3)).astype(np.float64)
    counts[..., 0] += rng.integers(0, 4, (prompts, size, size))  # the first is favoured
    counts[:, np.arange(size), np.arange(size)] = 0
    return counts


def loss(parameters: Array, counts: Array) -> float:
    """Return the negative log likelihood as Davidson and Beaver write it, pair by pair."""
    size = len(counts)
    strength, order, ties = np.exp(parameters[:size]), *np.exp(parameters[size:])
    total = 0.0
    for i in range(size):
        for j in range(size):
            if i == j:
                continue
            first, second = strength[i] * np.sqrt(order), strength[j] / np.sqrt(order)
            shares = np.array([first, second, ties * np.sqrt(strength[i] * strength[j])])
            total -= counts[i, j] @ np.log(shares / shares.sum())
    return total + parameters[:size].mean() ** 2  # skills have no origin of their own


def test_the_fit_is_where_an_independent_optimiser_ends() -> None:
    counts = drawn(prompts=5, size=4).sum(axis=0)
    found = minimize(loss, np.zeros(6), args=(counts,), method="BFGS", options={"gtol": 1e-7})
    fit = fit_bradley_terry(counts)
    assert fit.skills - MEAN_ELO == pytest.approx(ELO_PER_LOG * found.x[:4], abs=0.1)
    assert float(fit.advantage) == pytest.approx(ELO_PER_LOG * found.x[4], abs=0.1)
    assert float(fit.ties) == pytest.approx(found.x[5], abs=1e-3)


def test_without_ties_it_is_a_logistic_regression() -> None:
    counts = drawn(prompts=20, size=3)
    counts[..., 2] = 0
    total = counts.sum(axis=0)
    rows, outcomes, weights = [], [], []
    for i, j in np.argwhere(total.sum(axis=2)):
        row = np.zeros(3)
        row[[i, j]] += 1, -1
        for outcome in (0, 1):
            rows.append([row[1], row[2], 1.0])  # the first system is the origin
            outcomes.append(1 - outcome)
            weights.append(total[i, j, outcome])
    model = sm.GLM(outcomes, np.array(rows), family=sm.families.Binomial(), freq_weights=weights)
    known = model.fit().params
    fit = fit_bradley_terry(total)
    assert fit.skills[1:] - fit.skills[0] == pytest.approx(ELO_PER_LOG * known[:2], abs=0.1)
    assert float(fit.advantage) == pytest.approx(ELO_PER_LOG * known[2], abs=0.1)


def test_expected_points_and_ties_are_those_that_were_seen() -> None:
    counts = drawn(prompts=8, size=4).sum(axis=0)
    expected = counts.sum(axis=2, keepdims=True) * fit_bradley_terry(counts).probabilities()
    for seen, wanted in ((counts, expected),):
        of_first = (lambda c: c[..., 0] + c[..., 2] / 2)(seen - wanted)
        of_second = (lambda c: c[..., 1] + c[..., 2] / 2)(seen - wanted)
        assert of_first.sum(axis=1) + of_second.sum(axis=0) == pytest.approx(0, abs=1e-3)
        assert (seen - wanted).sum(axis=(0, 1)) == pytest.approx(0, abs=1e-3)


def test_resamples_fitted_together_are_those_fitted_alone() -> None:
    counts = drawn(prompts=12, size=3)
    weights = draw_prompt_weights(12, resamples=7, seed=3)
    together = rank_systems(counts, weights, NAMES[:3]).resampled
    alone = [fit_bradley_terry(np.repeat(counts, w.astype(int), axis=0).sum(0)) for w in weights]
    assert together.skills == pytest.approx(np.array([fit.skills for fit in alone]), abs=1e-5)
    assert together.advantage == pytest.approx(np.array([fit.advantage for fit in alone]), abs=1e-5)


def test_one_order_only_tells_nothing_of_the_order() -> None:
    counts = np.triu(np.ones((3, 3)), k=1)[None, :, :, None] * np.array([3.0, 2.0, 1.0])
    assert not is_order_identifiable(counts[0].sum(axis=2) > 0)
    ranking = rank_systems(counts, np.ones((4, 1)), NAMES[:3])
    assert ranking.advantage().value is None
    assert ranking.skill("one").value is not None


def test_a_system_that_never_lost_a_point_has_no_elo_and_moves_no_other() -> None:
    counts = drawn(prompts=10, size=4)
    without = rank_systems(
        counts[:, :3, :3], draw_prompt_weights(10, resamples=20, seed=0), NAMES[:3]
    )
    counts[:, 3, :3] = [4.0, 0.0, 0.0]
    counts[:, :3, 3] = [0.0, 4.0, 0.0]
    assert find_comparable(counts.sum(axis=0)).tolist() == [True, True, True, False]
    ranking = rank_systems(counts, draw_prompt_weights(10, resamples=20, seed=0), NAMES)
    assert ranking.unbounded() == ["four"]
    assert ranking.skill("four").value is None
    assert ranking.rank("four").value == 1
    for name in NAMES[:3]:
        known = without.skill(name).value
        assert ranking.skill(name).value == pytest.approx(known, abs=0.5)


def test_one_probability_of_beating_is_what_the_other_lacks() -> None:
    ranking = rank_systems(
        drawn(prompts=9, size=4), draw_prompt_weights(9, resamples=99, seed=1), NAMES
    )
    assert ranking.beats("one", "two") + ranking.beats("two", "one") == pytest.approx(1)
    assert ranking.ordered()[0] == min(NAMES, key=lambda name: ranking.rank(name).value or 9)


def test_skills_drawn_to_others_lie_between_both() -> None:
    counts, weights = drawn(prompts=3, size=3, seed=5), draw_prompt_weights(3, resamples=10, seed=0)
    far = rank_systems(drawn(prompts=50, size=3, seed=6), np.ones((1, 50)), NAMES[:3]).fit
    own = rank_systems(counts, weights, NAMES[:3]).fit.skills
    drawn_to = rank_systems(counts, weights, NAMES[:3], prior=far).fit.skills
    assert abs(drawn_to - far.skills).sum() < abs(own - far.skills).sum()
    assert abs(drawn_to - own).sum() < abs(own - far.skills).sum()
