"""Random orderings by the block: what is drawn, and that it is drawn evenly."""

from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.ranking.elo import assign_seats, iterate_matches

PAIRS = ((0, 1), (0, 2), (1, 2))
Played = list[tuple[int, int, int]]  # (system, system, twice the points of the first)


def orders(
    counts: NDArray[np.int64],
    width: int,
    *,
    matches: int | None = None,
    seed: int = 0,
) -> list[Played]:
    """Return what every ordering of a block plays, in terms of systems, lower one first."""
    rng = np.random.default_rng(seed)
    seats = assign_seats(width, 3, rng)
    lanes: list[Played] = [[] for _ in range(width)]
    for step in iterate_matches(counts, seats, matches=matches, rng=rng):
        for lane, played in enumerate(lanes):
            if step.played is None or step.played[lane]:
                low, high = int(seats[step.first, lane]), int(seats[step.second, lane])
                points = int(step.half_points[lane])
                played.append((low, high, points) if low < high else (high, low, 2 - points))
    return lanes


def alone(counts: NDArray[np.int64], number: int, **limits: Any) -> list[Played]:
    """Return orderings of blocks of their own, which are independent of each other."""
    return [orders(counts, 1, seed=seed, **limits)[0] for seed in range(number)]


def test_every_ordering_plays_every_match_once() -> None:
    counts = np.array([[3, 1, 2], [0, 2, 5], [4, 0, 1]])
    wanted = Counter()
    for pair, row in zip(PAIRS, counts, strict=True):
        wanted.update({(*pair, points): int(n) for points, n in zip((2, 1, 0), row, strict=True)})
    for played in orders(counts, 40):
        assert Counter(played) == +wanted


def test_orderings_may_have_matches_of_their_own() -> None:
    counts = np.random.default_rng(1).integers(0, 4, size=(30, 3, 3))
    for own, played in zip(counts, orders(counts, 30), strict=True):
        found = Counter(played)
        for number, pair in enumerate(PAIRS):
            assert [found[*pair, points] for points in (2, 1, 0)] == own[number].tolist()


def test_all_orders_of_different_matches_are_equally_likely_also_where_pairs_pass() -> None:
    counts = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0]])  # 4 matches, one pair plays twice
    seen = Counter(map(tuple, alone(counts, 2_400)))
    assert set(seen) == set(permutations([(0, 1, 2), (0, 1, 0), (0, 2, 2), (1, 2, 1)]))
    assert stats.chisquare(list(seen.values())).pvalue > 0.001


def test_orderings_of_some_of_the_matches_draw_without_replacement() -> None:
    counts = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0]])
    some = alone(counts, 1_200, matches=2)
    assert {len(set(played)) for played in some} == {2}
    assert stats.chisquare(list(Counter(map(tuple, some)).values())).pvalue > 0.001
    assert len(Counter(map(tuple, some))) == 4 * 3


@pytest.mark.parametrize("seed", [0, 1])
def test_seats_are_taken_by_all_systems_evenly(seed: int) -> None:
    seats = assign_seats(6_000, 3, np.random.default_rng(seed))
    assert (np.sort(seats, axis=0) == np.arange(3)[:, None]).all()
    seen = Counter(map(tuple, seats.T.tolist()))
    assert stats.chisquare(list(seen.values())).pvalue > 0.001
    assert len(seen) == 6
