"""The readers against the authors' released replies: what they read, and what they could not."""

import gzip
import json
from collections import Counter
from functools import cache
from typing import Any

import pytest
from release_folder import RELEASE

from qlora_repro.judge.parsing import PARSERS, ParsedReply

FAILURES = RELEASE / "parse_failures.jsonl.gz"
RATINGS = RELEASE / "raw" / "eval" / "ratings-gpt4"
SIDES = {"a": "first", "b": "second", "tie": "tie", None: None}
NUMBERS = {1: "first", 2: "second", 3: "tie", -1: None}

pytestmark = pytest.mark.skipif(
    not FAILURES.is_file(), reason=f"the released replies are not at {RELEASE}"
)


@cache
def failures(protocol: str) -> list[tuple[dict[str, Any], ParsedReply]]:
    """Return the replies that the authors' parser could not read, with our reading of each."""
    with gzip.open(FAILURES, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    ours = {"threeclass": "three_class", "relative10": "score10"}[protocol]
    return [(row, PARSERS[ours](row["text"])) for row in rows if row["protocol"] == protocol]


def test_the_strict_readers_fail_on_each_of_the_released_failures() -> None:
    found = [reading for name in ("threeclass", "relative10") for _, reading in failures(name)]
    assert len(found) == 1711
    assert {reading.verdict for reading in found} == {None}
    assert {reading.score_first for reading in found} == {None}


def test_the_lenient_reader_agrees_with_every_recovered_verdict() -> None:
    recovered = [(row, reading) for row, reading in failures("threeclass") if row["lenient"]]
    assert len(recovered) == 1452
    assert all(SIDES[row["lenient"]] == reading.verdict_lenient for row, reading in recovered)


def test_the_lenient_reader_finds_four_verdicts_more_and_each_is_what_the_reply_says() -> None:
    """A Chinese label, a Russian sentence, a Catalan name and a label before the last paragraph."""
    more = [
        (reading.verdict_lenient, reading.parse, row["text"].split()[-1])
        for row, reading in failures("threeclass")
        if not row["lenient"] and reading.verdict_lenient
    ]
    assert Counter(verdict for verdict, *_ in more) == {"second": 4}
    assert {(parse, end) for _, parse, end in more} == {
        ("recovered:label_colon_number", "\u6700\u4f73\u7b54\u6848\uff1a2"),
        ("recovered:says_number", "2."),
        ("recovered:names_one_assistant", "case."),
        ("recovered:names_one_assistant", "2."),
    }


def test_refusals_and_errors_are_told_apart_from_replies_of_the_wrong_form() -> None:
    found = Counter(
        (row["status"].split(":")[-1], reading.parse)
        for row, reading in failures("threeclass")
        if reading.verdict_lenient is None
    )
    assert found == {
        ("api_error", "api_error"): 8,
        ("refused_to_choose", "refused"): 4,
        ("unparsed", "refused"): 1,
        ("unparsed", "unparsed"): 26,
    }


def test_the_lenient_scores_are_those_that_the_authors_filled_in_by_hand() -> None:
    """All 156 of them; the tidied reading of the release differs from one."""
    filled = [
        (tuple(row["released_score"]), (reading.score_first_lenient, reading.score_second_lenient))
        for row, reading in failures("relative10")
        if row["released_score"] != [-1, -1]
    ]
    assert len(filled) == 156
    assert all(authors == ours for authors, ours in filled)


def test_the_lenient_scores_agree_where_the_authors_left_none_and_read_one_more() -> None:
    left = [
        (row["lenient"], (reading.score_first_lenient, reading.score_second_lenient))
        for row, reading in failures("relative10")
        if row["released_score"] == [-1, -1]
    ]
    assert len(left) == 60
    assert all(tuple(tidied) == ours for tidied, ours in left if tidied)
    assert [ours for tidied, ours in left if not tidied] == [(4.0, 10.0)]


def test_the_strict_readers_read_what_the_authors_parser_read() -> None:
    """Nine rating files; scores that were filled in by hand are no reading of the reply."""
    by_hand = {(row["source_path"], row["question_id"]) for row, _ in failures("relative10")}
    seen: Counter[str] = Counter()
    for path in sorted(RATINGS.rglob("*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            question = row.get("question_id", row.get("message_id"))
            where = str(path.relative_to(RELEASE / "raw")), str(question)
            if isinstance(row["score"], list):
                reading = PARSERS["score10"](row["text"])
                released = [None, None] if where in by_hand else row["score"]
                assert [reading.score_first, reading.score_second] == released, where
                seen["score10"] += 1
            else:
                assert PARSERS["three_class"](row["text"]).verdict == NUMBERS[row["score"]], where
                seen["three_class"] += 1
    assert seen == {"score10": 400, "three_class": 2066}
