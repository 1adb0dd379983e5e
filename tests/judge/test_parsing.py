"""Readers on replies made by hand, and what a summary makes of what they could not read."""

import json
from dataclasses import replace

import pytest
from scipy.stats import fisher_exact

from qlora_repro.judge.matches import VerdictSource, build_judgment, hash_answer
from qlora_repro.judge.openai import count_parse_failures, sum_usage, summarize_judging
from qlora_repro.judge.parsing import parse_json_reply, parse_score10, parse_three_class
from qlora_repro.records import Judgment, Match

MATCH = Match(
    question_id="q",
    question="?",
    category="math",
    lang="en",
    first="left",
    second="right",
    answer_first="one",
    answer_second="two!",
    reference="",
)


def judged(text: str, **more: str) -> Judgment:
    source = VerdictSource(judge="gpt-4", protocol="three_class", **more)
    return build_judgment(MATCH, source, parse_three_class(text))


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("Both fine.\n3", "tie", "tie"),
        ("1", "first", "first"),
        ("Fine.\n\n 2 \n\n", "second", "second"),
        ("Fine.\n**2**", None, "second"),
        ("Fine.\n[[1]]", None, "first"),
        ("Fine.\n4", None, None),
        ("Fine.\nAssistant 2: 3", None, None),
        ("Fine.\nAssistant 1: 5/5\nAssistant 2: 4/5", None, None),
        ("Assistant 1's answer is better than Assistant 2's answer.", None, "first"),
        ("Assistant 2 is not bad, and neither is Assistant 1.", None, None),
        ("I cannot choose the better answer, since Assistant 1 is silent.", None, None),
        ("", None, None),
    ],
)
def test_three_class_replies_are_read_strictly_and_leniently(
    reply: str, strict: str | None, lenient: str | None
) -> None:
    found = parse_three_class(reply)
    assert (found.verdict, found.verdict_lenient) == (strict, lenient)
    assert (found.parse == "ok") == (strict is not None)


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("8 9\nBecause.", (8, 9), (8, 9)),
        ("Because.\n8.5 9", (8.5, 9), (8.5, 9)),
        ("8 9\nBecause.\n8 9", (8, 9), (8, 9)),
        ("8 9\nBecause.\n9 8", None, None),
        ("0 11", None, None),
        ("The point is (10, 4).\nNo scores.", None, None),
        ("(7, 8)", None, (7, 8)),
        ("Assistant 1: 3x + 10\nAssistant 2: 5", None, None),
    ],
)
def test_score10_replies_are_read_strictly_and_leniently(
    reply: str, strict: tuple[float, float] | None, lenient: tuple[float, float] | None
) -> None:
    found = parse_score10(reply)
    assert (found.score_first, found.score_second) == (strict or (None, None))
    assert (found.score_first_lenient, found.score_second_lenient) == (lenient or (None, None))


@pytest.mark.parametrize(
    "reply", ['{"verdict": "4"}', '{"verdict": null}', '{"score_1": true, "score_2": 3}']
)
def test_json_that_breaks_the_schema_holds_no_verdict(reply: str) -> None:
    for protocol in ("three_class", "score10"):
        assert parse_json_reply(protocol, reply).verdict_lenient is None


def test_a_text_where_json_was_asked_for_is_read_leniently_only() -> None:
    found = parse_json_reply("three_class", "Both are fine.\n3")
    assert (found.verdict, found.verdict_lenient, found.parse) == (None, "tie", "recovered:text")


def test_a_judgment_carries_its_match_and_equal_answers_have_equal_ids() -> None:
    found = judged("1", prompt="maths", reply="abc")
    assert (found.question, found.first, found.second) == ("q", "left", "right")
    assert (found.chars_first, found.chars_second, found.prompt) == (3, 4, "maths")
    assert found.answer_first == hash_answer("one") != found.answer_second


def test_the_leaning_of_failures_is_counted_and_tested() -> None:
    replies = ["1"] * 40 + ["2"] * 20 + ["3"] * 10
    replies += ["Best answer: 1"] * 3 + ["Best answer: 2"] * 12 + ["", "error"]
    found = count_parse_failures(map(judged, replies))
    assert found.n == 87
    assert found.n_failed == 17
    assert found.read == {"first": 40, "second": 20, "tie": 10}
    assert found.recovered == {"first": 3, "second": 12, "tie": 0}
    assert found.unread == {"unparsed": 1, "api_error": 1}
    assert found.p == pytest.approx(fisher_exact([[40, 20], [3, 12]]).pvalue)
    assert found.describe() == (
        "17 of 87 replies could not be read strictly: leniently 3 first / 12 second / 0 tie (of "
        f"those read strictly 40 first / 20 second / 10 tie; the two differ with p {found.p:.3f}); "
        "no verdict: 1 api_error, 1 unparsed"
    )


def test_a_leaning_without_failures_says_so() -> None:
    found = count_parse_failures([judged("1")])
    assert (found.p, found.describe()) == (None, "all 1 replies could be read")


def test_a_summary_counts_models_cut_replies_and_missing_usage() -> None:
    one = judged("1", model="m", fingerprint="a")
    money = sum_usage(
        [
            {"choices": [{"finish_reason": "length"}], "usage": {}},
            {
                "choices": [{"finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2},
            },
        ],
        None,
    )
    found = summarize_judging([one, one, replace(one, fingerprint="b")], money)
    assert found.models == {"m a": 2, "m b": 1}
    assert found.model_changed
    assert (money.cut, money.unreported, money.input_tokens, money.cost) == (1, 1, 5, None)
    assert "the model changed within this run: m a (2), m b (1)" in "\n".join(found.describe())
    assert json.loads(found.to_json())["leaning"]["n"] == 3
