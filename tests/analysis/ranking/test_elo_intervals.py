"""Intervals of Elo: from other questions, without the scatter of orderings."""

import numpy as np
import pytest

from analysis.ranking.elo import load_setting, rate_orderings, rate_resampled_questions
from analysis.ranking.tally import Tally, count_verdicts
from qlora_repro.stats.intervals import TAILS
from qlora_repro.store.verdicts import load_released_verdicts


def of(counts: list[list[list[int]]], systems: list[str]) -> Tally:
    questions = [str(k) for k in range(len(counts))]
    return Tally(systems=systems, questions=questions, counts=np.array(counts), missing=0)


def test_questions_that_all_say_the_same_leave_no_uncertainty() -> None:
    same = of([[[3, 0, 1]]] * 40, ["a", "b"])
    how = load_setting("as_stated", "vicuna")
    resampled = rate_resampled_questions(same, how, resamples=200, each=40)
    low, high = np.quantile(resampled, TAILS, axis=0)
    scatter = rate_orderings(same.total, 2, how).std(axis=0)
    assert (high - low < scatter).all()  # without the correction four times a mean's share of it


def test_the_interval_of_two_systems_is_that_of_their_odds() -> None:
    wins = np.random.default_rng(7).random(400) < 0.7
    one = of([[[int(won), 0, int(not won)]] for won in wins], ["a", "b"])
    how = load_setting("as_printed", "vicuna", k=8)
    uncertain = rate_resampled_questions(one, how, resamples=400, each=40)
    gap = uncertain[:, 0] - uncertain[:, 1]
    share = wins.mean()
    # a rating that settles: log-odds, whose standard error is 1 / sqrt(n p (1 - p))
    wanted = 400 / np.log(10) / np.sqrt(400 * share * (1 - share))
    assert gap.std() == pytest.approx(wanted, rel=0.12)


def test_more_orderings_of_a_draw_do_not_change_the_interval() -> None:
    verdicts = load_released_verdicts().query("benchmark == 'oa'")
    few, many = (
        rate_resampled_questions(
            count_verdicts(verdicts), load_setting("as_printed", "oa"), resamples=200, each=each
        )
        for each in (40, 120)
    )
    ratio = few.std(axis=0).mean() / many.std(axis=0).mean()
    assert ratio == pytest.approx(1, abs=0.25)
