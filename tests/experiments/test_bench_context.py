"""The longest context of a card, against lengths that others published."""

import pytest

from experiments.benchmarks.bench_context import WITHIN, Case, cases, longest, main

pytestmark = pytest.mark.usefixtures("configured")


@pytest.fixture(scope="module")
def found() -> list[Case]:
    return cases()


def test_every_published_length_is_within_the_tolerance_of_what_an_allocator_holds(
    found: list[Case],
) -> None:
    ratios = [case.ratio(case.reserved) for case in found if case.published]
    assert len(ratios) == 7
    assert all(ratio is not None and abs(ratio - 1) <= WITHIN for ratio in ratios)


def test_tensors_alone_are_within_it_on_the_smallest_card_and_too_few_on_the_others(
    found: list[Case],
) -> None:
    eights = {c.card: c.allocated / c.published for c in found if c.model == "llama3_1_8b"}
    assert eights[12] == pytest.approx(1.13, abs=0.01)
    assert all(1.2 < ratio < 1.28 for card, ratio in eights.items() if card > 12)


def test_70b_fits_no_card_of_48_gb_as_published(found: list[Case]) -> None:
    (case,) = [case for case in found if not case.published]
    assert (case.allocated, case.reserved) == (0, 0)
    assert case.ratio(case.reserved) is None


def test_the_longest_is_found_where_all_and_where_nothing_fits() -> None:
    assert longest(lambda length: False) == 0
    assert longest(lambda length: length <= 1) == 1


def test_the_command_prints_a_row_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    text = capsys.readouterr().out
    assert text.count("llama3_1_8b") == 6
    assert "reserved: 7 of 7 within 15%" in text
