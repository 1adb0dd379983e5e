"""Verifiable questions drawn from a seed: the embedded data, for training and for evaluation.

Every question belongs to one of two sides, fixed by its text alone: three in four texts may be
trained on, one in four may be asked in a test. So no training question can turn up in any test,
whatever the seeds and sizes, and the training rows do not depend on what the test asks.
"""

import hashlib
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import cycle, islice
from random import Random
from typing import Literal

from qlora_repro.data.procedural_questions import (
    Question,
    calendar_arithmetic,
    chain_sum,
    family_relationships,
    letter_counting,
    letter_position,
    number_rank,
    number_sequence,
    syllogism,
)
from qlora_repro.errors import DataError

__all__ = ["TASKS", "Question", "Side", "draw", "held_out", "side", "train_and_test"]

TASKS: dict[str, Callable[[Random], Question]] = {
    "calendar_arithmetic": calendar_arithmetic,
    "chain_sum": chain_sum,
    "family_relationships": family_relationships,
    "letter_counting": letter_counting,
    "letter_position": letter_position,
    "number_rank": number_rank,
    "number_sequence": number_sequence,
    "syllogism": syllogism,
}
PATIENCE = 2000  # draws in a row without a new question before the task counts as used up

Side = Literal["train", "test"]


def side(question: str) -> Side:
    """Return the side that a question's text belongs to; one text in four is for tests.

    >>> side("What is 2 + 2?"), side("What is 2 + 3?")
    ('test', 'train')
    """
    return "test" if hashlib.sha256(question.encode()).digest()[0] % 4 == 0 else "train"


def draw(
    tasks: list[str] | None,
    rows: int,
    *,
    seed: int,
    avoid: frozenset[str] = frozenset(),
    only: Side | None = None,
) -> list[Question]:
    """Return so many different questions, the tasks in turn; the same ones for the same seed.

    tasks: keys of TASKS; None: all of them. Each task has its own random stream, so its questions
    do not change when another task comes or goes.
    avoid: texts that must not be drawn. only: questions of this side; None: of both.
    Raises DataError for an unknown or repeated task and when a task has no new question left.
    """
    names = _known(tasks)
    if rows < 1:
        raise DataError(f"{rows} procedural rows were asked for; data.rows must be at least 1")
    streams = [_stream(name, Random(f"{seed}/{name}"), avoid=avoid, only=only) for name in names]
    return [next(stream) for stream in islice(cycle(streams), rows)]


def held_out(tasks: list[str] | None, *, per_task: int, seed: int) -> list[Question]:
    """Return the test questions, so many of each task; none of them can be a training question."""
    return draw(tasks, per_task * len(_known(tasks)), seed=seed, only="test")


def train_and_test(
    tasks: list[str] | None, *, rows: int, seed: int, test_per_task: int, test_seed: int
) -> tuple[list[Question], list[Question]]:
    """Return training and test questions that share no text.

    The test questions depend on tasks, test_per_task and test_seed only.
    Raises DataError when both have one seed, and whatever `draw` raises.
    """
    if seed == test_seed:
        raise DataError(
            f"training and test questions both have the seed {seed}; give them different ones"
        )
    test = held_out(tasks, per_task=test_per_task, seed=test_seed)
    asked = frozenset(question.question for question in test)
    train = draw(tasks, rows, seed=seed, avoid=asked, only="train")
    assert asked.isdisjoint(question.question for question in train)
    return train, test


def _known(tasks: list[str] | None) -> list[str]:
    names = list(TASKS) if tasks is None else tasks
    if not names:
        raise DataError("data.tasks is empty; name at least one task, or null for all of them")
    for name in names:
        if name not in TASKS:
            near = get_close_matches(name, TASKS, n=1, cutoff=0.0)[0]
            raise DataError(
                f"there is no procedural task {name!r}; the nearest is {near!r}, and all are "
                f"{', '.join(TASKS)}"
            )
        if names.count(name) > 1:
            raise DataError(f"data.tasks names {name!r} {names.count(name)} times; name it once")
    return names


def _stream(
    name: str, rng: Random, *, avoid: frozenset[str], only: Side | None
) -> Iterator[Question]:
    """Yield the task's questions without repeating one."""
    seen = set(avoid)
    while True:
        for _ in range(PATIENCE):
            question = TASKS[name](rng)
            if question.question not in seen and only in (None, side(question.question)):
                break
        else:
            raise DataError(
                f"the procedural task {name!r} has no new question after {len(seen)}; ask for "
                "fewer rows or for more tasks"
            )
        seen.add(question.question)
        yield question
