"""The audit of a user's own file: what it lacks is said, and the command writes what it prints."""

import json
from pathlib import Path

import numpy as np
import pytest
from audited import made

from analysis.__main__ import main
from analysis.judge_audit.report import SECTIONS, audit_judge
from experiments.audit_coverage import Truth, make_frame, simulate_verdicts

BARE = [  # one order, no scores, lengths, categories or ids
    {"judge": "me", "question": f"q{at}", "first": "a", "second": "b", "verdict": verdict}
    for at, verdict in enumerate(["first", "first", "second", "tie", "first", "second"])
]
ALWAYS = {"shares", "advantage"}


def test_what_a_bare_file_lacks_is_said_in_one_line_each() -> None:
    sections = audit_judge(made(BARE))
    there = {name for name, section in sections.items() if not section.frame.empty}
    assert there == ALWAYS
    for name in set(SECTIONS) - ALWAYS:
        (said,) = sections[name].notes
        assert said.startswith("not computed: ")
    first = sections["advantage"].notes[0]
    assert first == "First-position advantage not computed: pairs were shown in one order only."


def test_a_judge_that_always_takes_the_first_flips_every_pair() -> None:
    rows = [
        {"judge": "me", "question": f"q{at}", "first": one, "second": other, "verdict": "first"}
        for at in range(8)
        for one, other in (("a", "b"), ("b", "a"))
    ]
    sections = audit_judge(made(rows))
    assert sections["swapping"].facts["flipped"]["value"] == 1
    assert sections["swapping"].facts["always_first"]["value"] == 1
    assert sections["pairs_by_order"].facts["turned"] == 1
    assert sections["advantage"].facts["advantage"]["value"] is None  # no finite one


def test_a_judge_that_goes_by_the_answers_never_flips() -> None:
    rows = [
        {"judge": "me", "question": f"q{at}", "first": one, "second": other, "verdict": verdict}
        for at in range(8)
        for one, other, verdict in (("a", "b", "first"), ("b", "a", "second"))
    ]
    facts = audit_judge(made(rows))["swapping"].facts
    assert (facts["same"]["value"], facts["flipped"]["value"]) == (1, 0)


def test_the_mean_of_scores_settles_what_two_orders_disagree_on() -> None:
    rows = [
        {"judge": "me", "question": f"q{at}", "first": one, "second": other, **points}
        for at in range(6)
        for one, other, points in (
            ("a", "b", {"score_first": 9.0, "score_second": 5.0}),
            ("b", "a", {"score_first": 7.0, "score_second": 6.0}),
        )
    ]
    rules = audit_judge(made(rows))["merge_rules"].facts
    assert rules["mean of scores"]["ranks"]["a"]["value"] == 1
    assert rules["disagreement is a tie"]["skills"]["a"]["value"] == pytest.approx(1000)


def test_a_judge_beside_votes_is_compared_with_their_majority() -> None:
    votes = [
        {"judge": f"human-{voter}", "question": f"q{at}", "first": "a", "second": "b"}
        | {"verdict": "first" if (at + voter) % 3 else "second"}
        for at in range(9)
        for voter in (1, 2, 3)
    ]
    own = [
        {"judge": "a", "question": f"q{at}", "first": one, "second": other, "verdict": verdict}
        for at in range(9)
        for one, other, verdict in (("a", "b", "first"), ("b", "a", "tie"))
    ]
    sections = audit_judge(made(votes + own, judge="a"))
    facts = sections["self_preference"].facts["a"]
    assert facts["people"]["value"] == 1  # two of three votes each time
    assert facts["judge"]["value"] == pytest.approx(0.75)
    agreed = sections["agreement"].facts["judge in the order people saw: same verdict"]
    assert agreed["value"] == 1


def test_a_file_of_which_nothing_could_be_read_says_so() -> None:
    sections = audit_judge(made([row | {"verdict": None} for row in BARE]))
    assert {name for name, each in sections.items() if not each.frame.empty} == {
        "shares",
        "parse_failures",
    }
    assert sections["advantage"].notes == ["not computed: no verdict could be read"]
    assert sections["shares"].facts["unread"]["value"] == 1


def test_a_single_verdict_is_examined_without_an_interval() -> None:
    sections = audit_judge(made(BARE[:1]))
    assert sections["shares"].facts["first"] == {"value": 1, "low": None, "high": None, "n": 1}


def test_lengths_that_are_all_alike_are_not_split() -> None:
    rows = [row | {"chars_first": 9, "chars_second": 9} for row in BARE]
    sections = audit_judge(made(rows))
    assert sections["by_length"].notes == [
        "not computed: most pairs have the same length, 18 characters"
    ]
    assert sections["verbosity"].frame.empty


def test_the_command_writes_markdown_json_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = Truth(
        skills=(1050.0, 1000.0, 950.0), advantage=80.0, tie_rate=0.2, by_place=0.1, by_answer=0.3
    )
    counts = simulate_verdicts(truth, prompts=30, repeats=1, rng=np.random.default_rng(0))[0]
    make_frame(counts, benchmark="toy").to_csv(tmp_path / "mine.csv", index=False)
    out = tmp_path / "out"
    assert main(["audit", "--ratings", str(tmp_path / "mine.csv"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "audit of simulated on toy, three_class: 180 rows, 30 prompts" in said
    assert "Self-preference: not computed" in said
    facts = json.loads((out / "audit_toy_three_class_simulated.json").read_text())
    assert set(facts["sections"]) == set(SECTIONS)
    found = facts["sections"]["advantage"]["advantage"]
    assert found["low"] < 80 < found["high"]
    text = (out / "audit_toy_three_class_simulated.md").read_text()
    assert text.count("\n## ") == len(SECTIONS)
    assert {path.name.rpartition("_")[2] for path in out.glob("*.png")} >= {"swapping.png"}


def test_a_benchmark_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--benchmark", "mt-bench"]) == 1
    assert "no verdict is on benchmark 'mt-bench'; there is oa, vicuna" in capsys.readouterr().err


def test_an_audit_takes_no_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "swapping"])
    assert "unrecognized arguments: swapping" in capsys.readouterr().err
