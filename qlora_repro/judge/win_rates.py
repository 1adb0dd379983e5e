"""What verdicts say of one system against another, and how far to trust it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from qlora_repro.judge.result_table import Share, Standing
from qlora_repro.records import Judgment
from qlora_repro.stats.paired import ratio_interval

SWAPPED = {"first": "second", "second": "first", "tie": "tie"}


def standing(
    rows: Sequence[Judgment],
    *,
    names: tuple[str, str],
    shown: int,
    unanswered: int,
    identical: int,
) -> Standing:
    """Count the verdicts on two systems.

    names: (system, opponent). shown: matches that the judge was given.
    """
    system, opponent = names
    read = [row for row in rows if row.verdict is not None]
    results = [_result(row, system) for row in read]
    seen = {(row.question, row.first, row.second) for row in rows}
    swaps = list(_swaps(read))
    return Standing(
        system=system,
        opponent=opponent,
        judges=sorted({row.judge for row in rows}),
        protocol=rows[0].protocol if rows else "",
        benchmark=rows[0].benchmark if rows else "",
        prompts=len({row.question for row in read}),
        n=len(read),
        wins=results.count(1),
        ties=results.count(0),
        losses=results.count(-1),
        net=_share((row.question, float(won), 1.0) for row, won in zip(read, results, strict=True)),
        relative=_share(_points(row, system) for row in read if row.score_first is not None),
        first=sum(row.verdict == "first" for row in read),
        second=sum(row.verdict == "second" for row in read),
        swaps=len(swaps),
        same=sum(one == SWAPPED[other] for one, other in swaps),
        unread=dict(Counter(row.parse for row in rows if row.verdict is None)),
        unjudged=shown - len(seen),
        unanswered=unanswered,
        identical=identical,
    )


def _result(row: Judgment, system: str) -> int:
    """Return 1 for a win of the system, -1 for a loss, 0 for a tie."""
    if row.verdict == "tie":
        return 0
    return 1 if (row.verdict == "first") == (row.first == system) else -1


def _points(row: Judgment, system: str) -> tuple[str, float, float]:
    """Return (question, the system's points, the opponent's)."""
    first, second = float(row.score_first or 0), float(row.score_second or 0)
    return (row.question, first, second) if row.first == system else (row.question, second, first)


def _share(parts: Iterable[tuple[str, float, float]]) -> Share | None:
    """Return sum over sum of (question, part, whole), with its interval over questions."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for question, part, whole in parts:
        sums[question][0] += part
        sums[question][1] += whole
    both = np.array(list(sums.values()), dtype=np.float64)  # (questions, 2)
    if not len(both) or not both[:, 1].all():
        return None
    low, high = ratio_interval(both[:, 0], both[:, 1])
    return Share(value=float(both[:, 0].sum() / both[:, 1].sum()), low=low, high=high)


def _swaps(rows: Iterable[Judgment]) -> Iterable[tuple[str, str]]:
    """Yield the two verdicts of each judge and question that were given in both orders."""
    orders: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row.verdict is not None:
            orders[row.judge, row.question][row.first] = row.verdict
    for verdicts in orders.values():
        if len(verdicts) == 2:
            one, other = verdicts.values()
            yield one, other
