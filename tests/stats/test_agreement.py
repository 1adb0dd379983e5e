"""Agreement against worked examples in print, the paper's tables and scipy."""

import numpy as np
import pytest

from qlora_repro.stats.agreement import (
    cohen_kappa,
    contingency_table,
    fleiss_kappa,
    kendall_tau,
    krippendorff_alpha,
    majority_category,
    spearman_rho,
)
from qlora_repro.stats.intervals import bootstrap_prompts, draw_prompt_weights

FLEISS = [  # Fleiss' method on 10 subjects, 14 raters, 5 categories: the example of its article
    *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
    *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]
KRIPPENDORFF = [  # Krippendorff (2011), section C: 4 observers, 12 units, 0 where one did not rate
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
HUMAN = [1176, 1023, 1009, 916, 984, 975, 1010, 909]  # Table 7, Vicuna
GPT4 = [1348, 1022, 992, 966, 974, 913, 879, 902]


def test_fleiss_kappa_is_that_of_the_worked_example() -> None:
    assert fleiss_kappa(np.array(FLEISS, dtype=float)) == pytest.approx(0.210, abs=5e-4)


def test_krippendorffs_alpha_is_that_of_the_worked_example() -> None:
    ratings = np.array(KRIPPENDORFF)
    table = np.stack([(ratings == value).sum(axis=0) for value in range(1, 6)], axis=1)
    assert krippendorff_alpha(table.astype(float)) == pytest.approx(0.743, abs=5e-4)


def test_cohens_kappa_is_observed_beyond_chance() -> None:
    square = np.array([[20.0, 5.0], [10.0, 15.0]])  # 0.7 observed, 0.5 by chance
    assert cohen_kappa(square) == pytest.approx(0.4)


def test_ratings_that_are_all_alike_have_no_kappa() -> None:
    table = np.array([[3.0, 0.0], [3.0, 0.0]])
    assert np.isnan(fleiss_kappa(table))
    assert np.isnan(krippendorff_alpha(table))
    assert np.isnan(cohen_kappa(table * [[1, 0], [0, 0]]))


def test_fleiss_refuses_items_with_unequal_ratings() -> None:
    with pytest.raises(ValueError, match="2 to 3 ratings"):
        fleiss_kappa(np.array([[2.0, 0.0], [2.0, 1.0]]))


def test_table_7s_elos_agree_as_the_paper_could_have_said() -> None:
    people, judge = np.array(HUMAN), np.array(GPT4)
    assert kendall_tau(people, judge) == pytest.approx(0.57, abs=0.005)
    assert spearman_rho(people, judge) == pytest.approx(0.62, abs=0.005)
    assert kendall_tau(people[1:], judge[1:]) == pytest.approx(
        0.43, abs=0.005
    )  # the one it reports


def test_a_correlation_with_a_constant_is_not_defined() -> None:
    assert np.isnan(kendall_tau(np.ones(4), np.arange(4.0)))
    assert np.isnan(spearman_rho(np.arange(4.0), np.ones(4)))


def test_a_majority_is_more_than_half_of_the_votes() -> None:
    votes = np.array([[2, 1, 0], [0, 1, 2], [1, 1, 1], [1, 1, 0], [0, 3, 0]])
    assert majority_category(votes, otherwise=2).tolist() == [0, 2, 2, 2, 1]


def test_an_interval_over_prompts_is_that_of_drawing_prompts_one_by_one() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(30), 4)
    leaning = rng.random(30)[prompts]
    ratings = rng.random((120, 3)) < leaning[:, None]
    table = np.stack([ratings.sum(axis=1), (~ratings).sum(axis=1)], axis=1).astype(float)
    found = bootstrap_prompts(
        fleiss_kappa, table, prompts, draw_prompt_weights(30, resamples=2000, seed=1)
    )
    draws = []
    for _ in range(2000):
        chosen = rng.integers(0, 30, 30)
        draws.append(fleiss_kappa(np.concatenate([table[prompts == one] for one in chosen])))
    low, high = np.quantile(draws, [0.0196, 0.9804])  # for 30 prompts
    assert found.value == pytest.approx(fleiss_kappa(table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_two_raters_choices_are_counted_where_they_meet() -> None:
    met = contingency_table(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert met.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
