import hashlib
import itertools
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_repro.data import procedural
from qlora_repro.data.procedural import (
    TASKS,
    draw_questions,
    draw_test_questions,
    split_of,
)
from qlora_repro.errors import DataError

DIGEST = (
    "import hashlib; from qlora_repro.data.procedural import draw_questions; "
    "print(hashlib.sha256(repr(draw_questions(None, 64, seed=3)).encode()).hexdigest())"
)


def test_a_seed_gives_the_same_questions_in_another_process() -> None:
    here = hashlib.sha256(repr(draw_questions(None, 64, seed=3)).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert here == there
    assert draw_questions(None, 64, seed=3) != draw_questions(None, 64, seed=4)


def test_tasks_come_in_turn_and_no_text_twice() -> None:
    rows = draw_questions(None, 400, seed=0)
    assert [row.task for row in rows] == [*TASKS] * 50
    assert len({row.question for row in rows}) == 400


def test_more_rows_extend_a_draw_and_other_tasks_leave_it_alone() -> None:
    alone = draw_questions(["chain_sum"], 10, seed=0)
    assert draw_questions(["chain_sum"], 20, seed=0)[:10] == alone
    assert draw_questions(["chain_sum", "syllogism"], 20, seed=0)[::2] == alone


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(1, 60))
def test_no_training_text_is_ever_a_test_text(seed: int, other: int, rows: int) -> None:
    trained = {q.question for q in draw_questions(None, rows, seed=seed, split="train")}
    assert trained.isdisjoint(q.question for q in draw_test_questions(None, per_task=8, seed=other))
    assert {split_of(text) for text in trained} == {"train"}


def test_about_a_quarter_of_all_texts_is_for_tests() -> None:
    texts = [q.question for q in draw_questions(None, 800, seed=0)]
    assert 0.2 < sum(split_of(text) == "test" for text in texts) / 800 < 0.3


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["silogism"], "no procedural task 'silogism'; the nearest is 'syllogism'"),
        (["chain_sum", "chain_sum"], "names 'chain_sum' 2 times"),
        ([], "data.tasks is empty"),
    ],
)
def test_wrong_tasks_are_refused_with_the_right_ones(tasks: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_questions(tasks, 4, seed=0)


def test_a_task_that_runs_out_of_questions_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def coin(rng: Random) -> tuple[str, str, list[str]]:
        return rng.choice("ab"), "a", ["b"]

    monkeypatch.setitem(procedural.TASKS, "coin", coin)
    assert {q.question for q in draw_questions(["coin"], 2, seed=0)} == {"a", "b"}
    with pytest.raises(DataError, match="'coin' has no new question after 2"):
        draw_questions(["coin"], 3, seed=0)


def test_ten_thousand_rows_can_be_drawn_of_every_task_together() -> None:
    rows = draw_questions(None, 10_000, seed=0, split="train")
    assert len({row.question for row in rows}) == 10_000
    assert all(a.task != b.task for a, b in itertools.pairwise(rows))
