"""Standings against counts by hand and intervals in closed form; the offline judges."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.judge.matches import VerdictSource, build_judgment, hash_answer
from qlora_repro.judge.other_judges import (
    compare_with_reference,
    find_released_system,
    judge_human,
    judge_reference,
    judge_replay,
)
from qlora_repro.judge.parsing import ParsedReply
from qlora_repro.judge.win_rates import (
    SWAPPED_VERDICT,
    WinRate,
    build_win_rate_table,
    compute_win_rate,
    describe_missing,
)
from qlora_repro.records import Judgment, Match

Configured = Callable[..., RunConfig]


def match(question: str, *, swapped: bool = False, reference: str = "4") -> Match:
    sides = [("a", "It is 4"), ("b", "five")]
    (first, one), (second, two) = sides[::-1] if swapped else sides
    return Match(
        question_id=question,
        question="2 + 2?",
        category="",
        lang="",
        first=first,
        second=second,
        answer_first=one,
        answer_second=two,
        reference=reference,
    )


def row(question: str, found: str | None, *, swapped: bool = False, parse: str = "ok") -> Judgment:
    reading = ParsedReply(verdict=found, verdict_lenient=found, parse=parse)
    source = VerdictSource(judge="j", protocol="three_class")
    return build_judgment(match(question, swapped=swapped), source, reading)


def of(rows: list[Judgment], *, shown: int | None = None) -> WinRate:
    n = len(rows) if shown is None else shown
    return compute_win_rate(rows, names=("a", "b"), n_matches=n, unanswered=0, identical=0)


def test_wins_are_the_systems_whichever_side_it_is_shown_on() -> None:
    rows = [
        *(row("1", "first"), row("1", "second", swapped=True)),  # two wins: the order did not count
        *(row("2", "first"), row("2", "first", swapped=True)),  # one each: the first shown won
        *(row("3", "tie"), row("3", None, swapped=True, parse="refused")),
    ]
    found = of(rows, shown=8)
    assert (found.wins, found.ties, found.losses, found.n_verdicts, found.n_questions) == (
        3,
        1,
        1,
        5,
        3,
    )
    assert (found.swapped_pairs, found.consistent_pairs) == (2, 1)
    assert (found.shown_first_wins, found.shown_second_wins) == (3, 1)
    assert (found.unread, found.unjudged) == ({"refused": 1}, 2)
    assert found.net is not None
    assert found.net.value == pytest.approx(2 / 5)
    assert "b: replies without a verdict: 1 (1 refused)" in describe_missing(found)


def test_the_interval_counts_questions_and_not_verdicts() -> None:
    pairs = [("first", "second") if k < 60 else ("second", "first") for k in range(100)]
    rows = [
        row(str(k), word, swapped=bool(side))
        for k, two in enumerate(pairs)
        for side, word in enumerate(two)
    ]
    net = of(rows).net
    assert net is not None
    half = 1.96 * math.sqrt((1 - 0.2**2) / 100)  # 100 questions, each +1 or -1; 200 verdicts
    assert net.value == pytest.approx(0.2)
    assert (net.low, net.high) == pytest.approx((0.2 - half, 0.2 + half), abs=0.03)


def test_without_a_verdict_nothing_is_claimed() -> None:
    found = of([row("1", None, parse="unparsed")])
    assert (found.n_verdicts, found.net, found.relative_score) == (0, None, None)
    assert "missing" in [
        str(cell) for cell in build_win_rate_table([found], kind="openai").columns[6].cells
    ]


def test_points_are_compared_by_sum_as_the_paper_does() -> None:
    scores = [(8.0, 10.0), (9.0, 10.0)]
    rows = [replace(row("1", "second"), score_first=a, score_second=b) for a, b in scores]
    assert of(rows).relative_score == pytest.approx(of(rows).relative_score)
    relative = of(rows).relative_score
    assert relative is not None
    assert relative.value == pytest.approx(17 / 20)


@settings(deadline=None)  # the first call imports the scorer
@given(st.text(), st.text(), st.text(min_size=1), st.floats(0, 1))
def test_reference_judge_has_no_order(one: str, other: str, right: str, margin: float) -> None:
    there = compare_with_reference(one, other, right, margin=margin)
    assert compare_with_reference(other, one, right, margin=margin) == SWAPPED_VERDICT[there]
    assert compare_with_reference(one, one, right, margin=margin) == "tie"


def test_reference_judge_prefers_what_is_right_and_leaves_out_what_it_cannot_know(
    configured: Configured, tmp_path: Path
) -> None:
    cfg = configured("judge=reference").judge
    rows = judge_reference(
        [match("1"), match("1", swapped=True), match("2", reference="")], cfg, tmp_path
    )
    assert [(r.question, r.verdict) for r in rows] == [("1", "first"), ("1", "second")]
    assert {r.judge for r in rows} == {"reference"}
    with pytest.raises(DataError, match="no question has one; use generate=procedural"):
        judge_reference([match("2", reference="")], cfg, tmp_path)


def test_every_table_says_what_is_not_gpt4() -> None:
    for kind, words in (("reference", "not GPT-4"), ("replay", "nothing was asked now")):
        assert words in str(build_win_rate_table([of([row("1", "tie")])], kind=kind).title)


def test_replayed_scores_give_table_6(configured: Configured, tmp_path: Path) -> None:
    cfg = configured("judge=replay", "judge.protocol=score10").judge
    for name, percent in (("guanaco-65b", 99.3), ("guanaco-7b", 87.0), ("bard", 94.8)):
        shown = [find_released_system(n, cfg, key="judge.run") for n in (name, "chatgpt-3.5")]
        asked = [
            replace(match(question), first=first.name, second=second.name)
            for first, second in (shown, shown[::-1])
            for question in first.answers
        ]
        rows = judge_replay(asked, cfg, tmp_path)
        names = name, "chatgpt-3.5"
        found = compute_win_rate(rows, names=names, n_matches=len(asked), unanswered=0, identical=0)
        assert found.relative_score is not None
        assert round(100 * found.relative_score.value, 1) == percent
    with pytest.raises(ConfigError, match=r"judge.run=guanco-65b is no system .* guanaco-65b"):
        find_released_system("guanco-65b", cfg, key="judge.run")


def test_votes_count_for_the_answers_that_were_shown(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "votes.csv"
    right, wrong = hash_answer("It is 4"), hash_answer("five")
    path.write_text(
        "judge,question,first,second,verdict,answer_first,answer_second\n"
        f"human-1,1,a,b,first,{right},{wrong}\n"
        f"human-2,1,b,a,tie,{wrong},{right}\n"
        f"human-1,2,a,b,second,{right},stale\n"
    )
    cfg = configured("judge=human", f"judge.votes={path}").judge
    asked = [match(k, swapped=swapped) for k in ("1", "2") for swapped in (False, True)]
    rows = judge_human(asked, cfg, tmp_path)
    assert [(r.judge, r.verdict) for r in rows] == [("human-1", "first"), ("human-2", "tie")]
    assert "votes.csv that are on other answers are left out: 1" in capsys.readouterr().out
    assert of(rows, shown=4).unjudged == 2
    with pytest.raises(ConfigError, match="has 3 votes, and none on these answers of a and b"):
        judge_human([match("9"), match("9", swapped=True)], cfg, tmp_path)
