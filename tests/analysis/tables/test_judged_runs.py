"""The table of verdicts on our runs, from verdicts counted by hand."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import stored

from analysis.tables import build_table
from qlora_repro.records import Judgment

EMPTY = dict.fromkeys([field.name for field in fields(Judgment)], "")
NUMBERS = {
    field.name: None for field in fields(Judgment) if field.type in ("float | None", "int | None")
}


def verdict(question: str, first: str, second: str, found: str | None) -> Judgment:
    named: dict[str, Any] = {"judge": "reference", "protocol": "three_class", "benchmark": "mine"}
    runs = {"run_first": "r", "run_second": "s", "parse": "ok"}
    shown = {"question": question, "first": first, "second": second, "verdict": found}
    return Judgment(**EMPTY | NUMBERS | named | runs | shown)


def test_both_orders_count_for_one_pair_and_the_judge_is_said_to_stand_in(tmp_path: Path) -> None:
    rows = [
        verdict("q1", "a", "b", "first"),
        verdict("q1", "b", "a", "second"),
        verdict("q2", "a", "b", "first"),
        verdict("q2", "b", "a", "first"),
        verdict("q3", "b", "a", "tie"),
        verdict("q3", "a", "b", None),
    ]
    stored.write(stored.make_run(tmp_path, "nf4"), "judgments", rows)
    table = build_table("judged_runs", tmp_path)
    (row,) = table.frame.to_dict("records")
    assert row["judge"] == "stand-in reference, three_class"
    assert (row["system"], row["wins"], row["ties"], row["losses"]) == ("a", "3", "1", "1")
    assert (row["net wins, %"], row["n"], row["unread"]) == ("+40.0", "5 on 3 questions", "1")
    assert float(row["first shown wins, %"]) == pytest.approx(60)
    low, high = (float(end) for end in row["95% interval"].strip("[]").split(","))
    assert (low, high) == (0, 100)
    assert table.runs == ("small-nf4-False",)


def test_no_verdicts_are_said_with_the_command_that_makes_them(tmp_path: Path) -> None:
    table = build_table("judged_runs", tmp_path)
    assert not table.has_results
    assert "python run.py experiments=table7_elo" in table.notes[-1]
