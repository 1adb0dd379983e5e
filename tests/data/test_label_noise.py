"""Training rows with wrong answers."""

from collections import Counter

import pytest

from qlora_repro.data.datasets import add_wrong_answers, question_to_example
from qlora_repro.data.procedural import draw_questions
from qlora_repro.errors import DataError
from qlora_repro.records import Example

ROWS = [question_to_example(question, "plain") for question in draw_questions(None, 400, seed=0)]


def changed(share: float, seed: int = 0) -> set[int]:
    found = add_wrong_answers(ROWS, share=share, seed=seed)
    assert [(row.source, row.task) for row in found] == [(row.source, row.task) for row in ROWS]
    return {i for i, (old, new) in enumerate(zip(ROWS, found, strict=True)) if old != new}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_exactly_the_share_of_the_answers_is_wrong(share: float) -> None:
    assert len(changed(share)) == round(share * len(ROWS))


def test_a_larger_share_keeps_the_wrong_rows_of_a_smaller_one() -> None:
    assert changed(0.1) < changed(0.3)
    assert changed(0.3) != changed(0.3, seed=1)


def test_wrong_answers_are_those_of_other_rows_of_the_task() -> None:
    there = Counter((row.task, row.target) for row in ROWS)
    given = add_wrong_answers(ROWS, share=1.0, seed=0)
    assert all((row.task, row.target) in there for row in given)
    assert given == add_wrong_answers(ROWS, share=1.0, seed=0)


def test_a_task_with_one_answer_has_no_wrong_one_to_give() -> None:
    rows = [Example(source=str(i), target=" yes", task="nods") for i in range(4)]
    with pytest.raises(DataError, match=r"every row of nods has the same; write data\.wrong=0"):
        add_wrong_answers(rows, share=0.5, seed=0)
    assert add_wrong_answers(rows, share=0.0, seed=0) == rows
