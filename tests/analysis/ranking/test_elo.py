"""Elo over orderings: against a plain loop, closed forms, and what it refuses."""

import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.ranking import elo
from analysis.ranking.elo import (
    EloSetting,
    assign_seats,
    iterate_matches,
    load_setting,
    monte_carlo_error,
    rate_orderings,
)
from analysis.ranking.tally import count_verdicts, resample_counts
from qlora_repro.errors import ConfigError
from qlora_repro.stats.intervals import draw_prompt_weights
from qlora_repro.store.verdicts import load_released_verdicts

COUNTS = np.array([[5, 2, 3], [4, 0, 6], [1, 1, 7]])
NONE = [0, 0, 0]


def how(**changes: Any) -> EloSetting:
    return load_setting("as_stated", "vicuna", **changes)


def plain(matches: list[tuple[int, int, float]], *, n: int, start: float, k: float) -> list[float]:
    """Elo as textbooks have it."""
    ratings = [start] * n
    for first, second, points in matches:
        expected = 1 / (1 + 10 ** ((ratings[second] - ratings[first]) / 400))
        ratings[first] += k * (points - expected)
        ratings[second] -= k * (points - expected)
    return ratings


def test_every_ordering_is_rated_as_a_plain_loop_rates_it() -> None:
    rated = rate_orderings(COUNTS, 3, how(orderings=50, seed=3))
    rng = np.random.Generator(np.random.SFC64(3))
    seats = assign_seats(50, 3, rng)
    played: list[list[tuple[int, int, float]]] = [[] for _ in range(50)]
    for step in iterate_matches(COUNTS, seats, matches=None, rng=rng):
        for lane in range(50):
            if step.played is None or step.played[lane]:
                pair = (int(seats[step.first, lane]), int(seats[step.second, lane]))
                played[lane].append((*pair, step.half_points[lane] / 2))
    assert {len(matches) for matches in played} == {29}
    wanted = [plain(matches, n=3, start=1000, k=32) for matches in played]
    np.testing.assert_allclose(rated, wanted, rtol=0, atol=1e-3)


def test_the_mean_is_that_of_a_plain_loop_over_shuffled_matches() -> None:
    matches = [
        (*pair, points)
        for pair, row in zip(((0, 1), (0, 2), (1, 2)), COUNTS, strict=True)
        for points, n in zip((1, 0.5, 0), row, strict=True)
        for _ in range(n)
    ]
    rng, theirs = random.Random(0), []
    for _ in range(3_000):
        rng.shuffle(matches)
        theirs.append(plain(matches, n=3, start=1000, k=32))
    ours = rate_orderings(COUNTS, 3, how(orderings=3_000))
    for system in range(3):
        column = [row[system] for row in theirs]
        assert stats.ttest_ind(column, ours[:, system]).pvalue > 0.001
        assert stats.levene(column, ours[:, system]).pvalue > 0.001


def test_one_win_moves_both_by_half_of_k() -> None:
    rated = rate_orderings(np.array([[1, 0, 0]]), 2, how(orderings=4, k=32, start=1200))
    np.testing.assert_allclose(rated, [[1216, 1184]] * 4, rtol=0, atol=1e-3)


def test_with_a_small_k_ratings_settle_where_the_odds_are() -> None:
    rated = rate_orderings(np.array([[3_000, 0, 1_000]]), 2, how(orderings=200, k=2, matches=None))
    gap = (rated[:, 0] - rated[:, 1]).mean()
    assert gap == pytest.approx(400 * math.log10(3), abs=2)


def test_k_of_32_has_forgotten_what_came_before_the_last_thousands_of_matches() -> None:
    verdicts = load_released_verdicts().query("benchmark == 'oa'")
    of = count_verdicts(verdicts)
    few, more = (
        rate_orderings(of.total, 7, how(orderings=1_000, matches=matches, seed=matches))
        for matches in (2_000, 6_000)
    )
    assert (abs(few.mean(axis=0) - more.mean(axis=0)) < 4.5 * math.sqrt(2) * 48 / 31.6).all()


def test_blocks_scatter_as_much_as_independent_orderings_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elo, "BLOCK", 250)
    of = count_verdicts(
        load_released_verdicts().query("benchmark == 'vicuna' and protocol == 'three_class'")
    )
    rated = rate_orderings(of.total, 8, how(orderings=5_000, matches=500))  # 20 blocks
    means = rated.reshape(20, 250, 8).mean(axis=1)
    ratio = means.var(axis=0, ddof=1) / (rated.var(axis=0, ddof=1) / 250)
    assert ratio.mean() < stats.chi2(df=19).isf(0.001) / 19


def test_the_papers_interval_is_the_error_of_a_mean_over_orderings() -> None:
    ratings: NDArray[np.float64] = np.random.default_rng(0).normal(0, 50, size=(10_000, 3))
    assert monte_carlo_error(ratings) == pytest.approx([0.98] * 3, rel=0.05)


@pytest.mark.parametrize(
    ("counts", "changes", "said"),
    [
        ([NONE], {}, "no matches with a verdict"),
        ([[1, 2, 0]], {"matches": 4}, "matches is 4, and there are 3"),
    ],
)
def test_what_cannot_be_rated_is_refused(
    counts: list[list[int]], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        rate_orderings(np.array(counts), 2, how(orderings=3, **changes))


def test_presets_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is as_printed, as_stated"):
        load_setting("as_guessed", "vicuna")
    with pytest.raises(ConfigError, match="no K for the benchmark 'mine'; it has vicuna, oa"):
        load_setting("as_printed", "mine")


def test_verdicts_are_counted_by_question_pair_and_winner_whoever_is_shown_first() -> None:
    rows = [("q1", "b", "a", "first"), ("q1", "a", "b", "second"), ("q2", "c", "a", "tie")]
    rows += [("q2", "c", "b", None), ("q2", "d", "a", "first")]
    frame = pd.DataFrame(rows, columns=["question", "first", "second", "verdict"])
    of = count_verdicts(frame, ["a", "b", "c"])
    assert (of.questions, of.missing) == (["q1", "q2"], 1)
    assert of.counts.tolist() == [[[0, 0, 2], NONE, NONE], [NONE, [0, 1, 0], NONE]]


def test_resampled_questions_keep_their_verdicts_together() -> None:
    counts = np.array([[[1, 0, 0]], [[0, 0, 7]]])
    drawn = resample_counts(counts, draw_prompt_weights(2, resamples=50, seed=0))
    assert {tuple(row) for row in drawn[:, 0].tolist()} == {(2, 0, 0), (1, 0, 7), (0, 0, 14)}
