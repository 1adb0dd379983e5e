"""What one evaluation says, and what two of them say together: intervals and paired tests."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qlora_repro.records import LOSS, PERPLEXITY, Answer, Metric, Paired

LOWER_IS_BETTER = (LOSS, PERPLEXITY, "kl", "squared_error")
BLOCK = 128  # tokens; those of one text depend on their neighbours, so blocks are resampled
NORMAL = 1.96  # standard errors


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one evaluation left in the store."""

    metrics: list[Metric]
    answers: list[Answer]


def compare(before: Scores | None, after: Scores | None, where: tuple[str, str]) -> Paired | None:
    """Pair two evaluations on one (task, metric); None where one of them has no answers to it."""
    if before is None or after is None:
        return None
    old, new = (_of(scores.answers, where) for scores in (before, after))
    if not old or not new:
        return None
    from qlora_repro.stats import paired  # scipy: half a second that a finished cell can do without

    task, metric = where
    return paired(
        old,
        new,
        higher_is_better=metric not in LOWER_IS_BETTER,
        block=BLOCK if task == PERPLEXITY else 1,
    )


def _of(answers: Iterable[Answer], where: tuple[str, str]) -> list[Answer]:
    """Return a task's answers, or those of a group's tasks, which carry its name in front."""
    task, metric = where
    return [
        a for a in answers if a.name == metric and (a.task == task or a.task.startswith(f"{task}_"))
    ]


def interval(scores: Scores, where: tuple[str, str]) -> tuple[float, float] | None:
    """Return the 95% interval of one evaluation's score; None where its answers say nothing of it.

    Wilson's for right and wrong answers; else resampled questions, or blocks of a text's tokens.
    Of a group, whose mean weighs its tasks alike, it is two standard errors.
    """
    task, metric = where
    found = {(m.task, m.name): m for m in scores.metrics}[where]
    loss = LOSS if metric == PERPLEXITY else metric
    own = [a.value for a in scores.answers if (a.task, a.name) == (task, loss)]
    values = [value for value in own if value is not None]
    if not values:
        if found.value is None or found.stderr is None:
            return None
        return found.value - NORMAL * found.stderr, found.value + NORMAL * found.stderr
    import numpy as np

    from qlora_repro import stats  # scipy: half a second that a finished cell can do without

    if set(values) <= {0.0, 1.0}:
        return stats.wilson(int(sum(values)), len(values))
    low, high = stats.block_interval(np.array(values), block=BLOCK if task == PERPLEXITY else 1)
    return (math.exp(low), math.exp(high)) if metric == PERPLEXITY else (low, high)
