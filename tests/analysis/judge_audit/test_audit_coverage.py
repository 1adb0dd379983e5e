"""A bias that was put in is found, and its intervals hold it as often as they say."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.audit_coverage import (
    ADVANTAGES,
    Truth,
    by_verdict,
    coverages,
    make_frame,
    rankings,
    simulate_verdicts,
)
from qlora_repro.store.verdicts import COLUMNS

pytestmark = pytest.mark.long

TRUTH = Truth(
    skills=(1120.0, 1010.0, 960.0, 910.0),
    advantage=50.0,
    tie_rate=0.17,
    by_place=0.1,
    by_answer=0.3,
)
SIZES = {"prompts": 80, "repeats": 500, "resamples": 400}


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_intervals_hold_the_truth_in_93_to_97_percent_of_500_repeats(advantage: float) -> None:
    truth = replace(TRUTH, advantage=advantage)
    found = coverages(truth, rankings(truth, **SIZES, seed=1))
    assert {name: 0.93 <= each.share() <= 0.97 for name, each in found.items()} == {
        "advantage": True,
        "ties": True,
        "skills": True,
    }
    assert abs(found["advantage"].mean) < 3  # Elo, over all repeats
    assert abs(found["ties"].mean) < 0.003


def test_resampling_verdicts_instead_of_prompts_is_too_sure() -> None:
    sizes = {**SIZES, "repeats": 60}
    assert by_verdict(TRUTH, **sizes, seed=0).share() < 0.90


def test_correlation_leaves_each_verdicts_own_probabilities() -> None:
    rng = np.random.default_rng(0)
    counts = simulate_verdicts(TRUTH, prompts=20_000, repeats=1, rng=rng)[0]  # (Q, S, S, 3)
    known = TRUTH.fit().probabilities()
    off = ~np.eye(4, dtype=bool)
    assert counts.mean(axis=0)[off] == pytest.approx(known[off], abs=0.015)
    assert counts[:, np.arange(4), np.arange(4)].sum() == 0


def test_verdicts_on_one_prompt_go_together() -> None:
    rng = np.random.default_rng(0)
    first = simulate_verdicts(TRUTH, prompts=5000, repeats=1, rng=rng)[0][..., 0]  # (Q, S, S)
    of_prompts = first.sum(axis=(1, 2)).var()
    alone = (first.mean(axis=0) * (1 - first.mean(axis=0))).sum()  # were they independent
    assert of_prompts > 1.5 * alone


def test_simulated_verdicts_are_a_whole_verdict_frame_that_says_what_it_is() -> None:
    counts = simulate_verdicts(TRUTH, prompts=6, repeats=1, rng=np.random.default_rng(0))[0]
    frame = make_frame(counts, benchmark="made up")
    assert list(frame.columns) == list(COLUMNS)
    assert set(frame["judge"]) == {"simulated"}
    assert len(frame) == 6 * 4 * 3
