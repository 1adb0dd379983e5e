"""What the audit finds in the released verdicts, against figures known from elsewhere."""

import numpy as np
import pandas as pd
import pytest
from audited import audited

from analysis.judge_audit import groups, human_agreement, position, validity
from analysis.judge_audit.human_agreement import self_preference
from experiments.bench_audit import order_in_elo

SHARES = {  # first, second, tie; same after swapping, always first, always second
    "vicuna": (0.562, 0.303, 0.134, 0.614, 0.196, 0.009),
    "oa": (0.490, 0.364, 0.146, 0.724, 0.103, 0.019),
}


@pytest.mark.parametrize("benchmark", ["vicuna", "oa"])
def test_shares_by_position_and_after_swapping_are_the_known_ones(benchmark: str) -> None:
    judged = audited(benchmark, "three_class", "gpt-4")
    shares, swaps = position.verdict_shares(judged).facts, position.swap_agreement(judged).facts
    found = [shares[name]["value"] for name in ("first", "second", "tie")]
    found += [swaps[name]["value"] for name in ("same", "always_first", "always_second")]
    assert found == pytest.approx(SHARES[benchmark], abs=5e-4)


def test_the_swap_table_counts_each_pair_from_both_sides() -> None:
    judged = audited("vicuna", "three_class", "gpt-4")
    facts = position.swap_agreement(judged).facts
    turned = np.array(facts["turned_into"])
    assert (turned == turned.T).all()
    assert turned.sum() == 2 * len(judged.swapped_pairs)
    parts = ("same", "always_first", "always_second", "half")
    assert sum(facts[part]["value"] for part in parts) == pytest.approx(1)
    assert turned[0, 0] / 2 / len(judged.swapped_pairs) == pytest.approx(
        facts["always_first"]["value"]
    )


def test_an_interval_is_that_of_drawing_prompts_with_pandas() -> None:
    judged = audited("vicuna", "three_class", "gpt-4")
    first = (judged.readable["verdict"] == "first").groupby(judged.readable["question"])
    sums, sizes = first.sum(), first.size()
    rng = np.random.default_rng(7)
    draws = []
    for _ in range(4000):
        chosen = rng.integers(0, 80, 80)
        draws.append(sums.iloc[chosen].sum() / sizes.iloc[chosen].sum())
    found = position.verdict_shares(judged).facts["first"]
    assert found["low"] == pytest.approx(np.quantile(draws, 0.0226), abs=0.008)
    assert found["high"] == pytest.approx(np.quantile(draws, 0.9774), abs=0.008)


def test_gpt4_gains_by_its_place_and_people_do_not() -> None:
    judge = audited("vicuna", "three_class", "gpt-4").ranking.advantage()
    people = audited("vicuna", "three_class", "human").ranking.advantage()
    assert judge.low is not None
    assert judge.low > 100
    assert people.low is not None
    assert people.high is not None
    assert people.low < 0 < people.high


def test_bias_is_greatest_between_close_systems() -> None:
    found = groups.bias_by_closeness(audited("oa", "three_class", "gpt-4")).facts
    assert found["spearman"]["n"] == 21
    assert found["spearman"]["high"] < 0
    expected = [pair["expected"] for pair in found["pairs"].values()]
    assert expected == sorted(expected, reverse=True)  # pairs come in order of the gap
    assert sum(pair["bias"]["n"] for pair in found["pairs"].values()) == 38_544


def test_one_order_alone_moves_ranks_that_both_together_agree_on() -> None:
    facts = position.rankings_by_merge_rule(audited("oa", "three_class", "gpt-4")).facts
    assert facts["first order"]["moved"]
    assert facts["second order"]["moved"]
    assert facts["disagreement is a tie"]["moved"] == []
    assert facts["mean of scores"]["moved"] == []


def test_points_by_position_are_the_known_ones() -> None:
    facts = position.score_gains(audited("vicuna", "score10", "gpt-4")).facts
    systems, reference = facts["all but chatgpt-3.5"], facts["chatgpt-3.5 (reference)"]
    assert systems["gain"]["n"] == 2823
    assert systems["gain"]["value"] == pytest.approx(1.61, abs=0.005)
    assert reference["gain"]["value"] == pytest.approx(-0.26, abs=0.005)


def test_equal_answers_are_all_ties() -> None:
    facts = validity.equal_answers(audited("oa", "three_class", "gpt-4")).facts
    assert (facts["n"], facts["tie"], facts["first"], facts["second"]) == (32, 32, 0, 0)


def test_parse_failures_lean_to_the_second_answer() -> None:
    facts = validity.parse_failures(audited("oa", "three_class", "gpt-4")).facts
    assert facts["failed"] == 1482
    assert facts["recovered"] == {"first": 442, "second": 865, "tie": 146}


def test_agreement_with_and_among_people_is_the_known_one() -> None:
    section = human_agreement.human_agreement(audited("vicuna", "three_class", "gpt-4"))
    people = section.facts["people: Fleiss' kappa"]
    assert people["value"] == pytest.approx(0.1847884038964222, abs=1e-12)
    assert people["n"] == 2240
    judge = section.facts["judge in the order people saw: Fleiss' kappa"]
    assert judge["value"] == pytest.approx(0.26, abs=0.005)


def test_gpt4_gives_itself_more_than_people_give_it() -> None:
    facts = self_preference(audited("vicuna", "three_class", "gpt-4")).facts
    assert facts["gpt-4"]["beyond"]["low"] > 0
    assert max(facts, key=lambda name: facts[name]["beyond"]["value"]) == "gpt-4"
    beyond = [each["beyond"]["value"] * each["beyond"]["n"] for each in facts.values()]
    assert sum(beyond) == pytest.approx(0, abs=1e-9)  # points that one gains others lose


def test_people_favour_length_as_gpt4_does() -> None:
    for judge in ("gpt-4", "human"):
        facts = validity.verbosity(audited("vicuna", "three_class", judge)).facts["all"]
        assert facts["beyond"]["low"] > 0.05
        gap = facts["points"]["value"] - facts["expected"]["value"]
        assert facts["beyond"]["value"] == pytest.approx(gap)


def test_groups_share_out_the_verdicts() -> None:
    judged = audited("oa", "three_class", "gpt-4")
    facts = groups.bias_by_language(judged).facts["groups"]
    assert sum(each["first"]["n"] for each in facts.values()) == len(judged.readable)
    english = judged.readable[judged.readable["lang"] == "en"]
    known = (english["verdict"] == "first").mean()
    assert facts["en"]["first"]["value"] == pytest.approx(known)


def test_lengths_of_votes_are_those_stated_of_the_same_answers() -> None:
    people, judge = (audited("vicuna", "three_class", who) for who in ("human", "gpt-4"))
    keys = ["question", "first", "second"]
    met = people.rows.merge(judge.rows, on=keys, suffixes=("", "_judge"))
    assert len(met) == len(people.rows)
    pd.testing.assert_series_equal(met["chars_first"], met["chars_first_judge"], check_names=False)


def test_the_advantage_on_oa_is_where_the_plain_loops_optimiser_ends() -> None:
    judged = audited("oa", "three_class", "gpt-4")
    counts = judged.readable.groupby(["first", "second", "verdict"]).size().unstack(fill_value=0)
    found = judged.ranking.advantage().value
    assert found == pytest.approx(order_in_elo(counts[["first", "second", "tie"]]), abs=0.1)
