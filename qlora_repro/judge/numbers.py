"""What a verdict and a pair of scores are made of, wherever they are read."""

import re

VERDICTS = {"1": "first", "2": "second", "3": "tie"}
NUMBER = r"(\d{1,2}(?:\.\d+)?)"  # as a pattern, one group
Scores = tuple[float, float]
LINE = re.compile(rf"\s*{NUMBER}\s*[\s,]\s*{NUMBER}\s*")


def in_range(first: float, second: float) -> Scores | None:
    """Return two scores if both are scores out of ten, from 1.

    >>> in_range(10.0, 4.0), in_range(20.0, 4.0)
    ((10.0, 4.0), None)
    """
    return (first, second) if 1 <= first <= 10 and 1 <= second <= 10 else None


def scores(line: str) -> Scores | None:
    """Read a line that holds two scores, with blanks or a comma between, and nothing else.

    >>> scores("8 7.5"), scores("8, 7"), scores("8 7 6"), scores("87")
    ((8.0, 7.5), (8.0, 7.0), None, None)
    """
    found = LINE.fullmatch(line)
    return in_range(float(found[1]), float(found[2])) if found else None


def verdict_of(pair: Scores) -> str:
    """Return who has the higher score.

    >>> verdict_of((8.0, 7.0)), verdict_of((7.0, 7.0))
    ('first', 'tie')
    """
    first, second = pair
    return "tie" if first == second else "first" if first > second else "second"
