"""Rows with wrong answers: what training data of lower quality does (finding 4)."""

from collections import defaultdict
from dataclasses import replace
from random import Random

from qlora_repro.errors import DataError
from qlora_repro.records import Example


def misanswered(rows: list[Example], *, share: float, seed: int) -> list[Example]:
    """Return the rows, this share of them with the answer of another row of the same task.

    The wrong answer differs from the row's own, and is as likely as it is frequent in the task; so
    a row alone does not show that it is wrong. A larger share keeps the wrong rows of a smaller
    one. Raises DataError when every row of a task has one and the same answer.
    """
    answers: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        answers[row.task].append(row.target)
    places = list(range(len(rows)))
    Random(f"{seed}/wrong").shuffle(places)
    made = list(rows)
    for place in places[: round(share * len(rows))]:
        row = rows[place]
        others = [answer for answer in answers[row.task] if answer != row.target]
        if not others:
            raise DataError(
                f"data.wrong={share:g} needs other answers to give, and every row of "
                f"{row.task or 'this data'} has the same; write data.wrong=0"
            )
        made[place] = replace(row, target=Random(f"{seed}/wrong/{place}").choice(others))
    return made
