import random
from itertools import pairwise

import pytest

from qlora_repro.data.collators import order_rows

RNG = random.Random(1)
LENGTHS = [RNG.randint(5, 90) for _ in range(103)]


@pytest.mark.parametrize("grouped", [True, False])
def test_each_epoch_visits_every_row_once(grouped: bool) -> None:
    seen = order_rows(LENGTHS, batch_size=8, steps=40, seed=0, group_by_length=grouped)
    assert len(seen) == 320
    for start in (0, 103, 206):
        assert sorted(seen[start : start + 103]) == list(range(103))
    assert seen[:103] != seen[103:206]


def test_order_depends_on_the_seed_and_on_nothing_drawn_before() -> None:
    first = order_rows(LENGTHS, batch_size=8, steps=20, seed=3, group_by_length=True)
    random.random()
    assert order_rows(LENGTHS, batch_size=8, steps=20, seed=3, group_by_length=True) == first
    assert order_rows(LENGTHS, batch_size=8, steps=20, seed=4, group_by_length=True) != first


def test_more_steps_go_on_where_fewer_stopped() -> None:
    short = order_rows(LENGTHS, batch_size=8, steps=10, seed=3, group_by_length=True)
    assert order_rows(LENGTHS, batch_size=8, steps=30, seed=3, group_by_length=True)[:80] == short


def test_grouping_by_length_computes_little_padding_and_mixes_the_batches() -> None:
    def computed(grouped: bool) -> int:
        seen = order_rows(LENGTHS, batch_size=8, steps=12, seed=0, group_by_length=grouped)
        return sum(8 * max(LENGTHS[i] for i in seen[b : b + 8]) for b in range(0, 96, 8))

    assert computed(True) < 0.8 * computed(False)
    seen = order_rows(LENGTHS, batch_size=8, steps=12, seed=0, group_by_length=True)
    longest = [max(LENGTHS[i] for i in seen[b : b + 8]) for b in range(0, 96, 8)]
    assert any(a < b for a, b in pairwise(longest))  # not simply from long to short
