"""Every answer is found again from the question's text alone, by a solver that shares no code."""

import itertools
import re
from collections import Counter
from datetime import datetime, timedelta

import pytest

from qlora_repro.data.procedural import TASKS, ProceduralQuestion, draw_questions

N = 400
WOMENS_NAMES = """
Alice Amanda Anna Barbara Bella Carol Caroline Clara Diana Edith Elena Emily Emma Eva Fiona Grace
Hannah Helen Irene Jane Julia Karen Laura Linda Lucy Maria Martha Mary Nancy Nora Olivia Rachel
Rose Ruth Sarah Sophie Susan
"""
WOMEN = set(WOMENS_NAMES.split())
WEEKDAYS = [datetime(2024, 1, day).strftime("%A") for day in range(1, 8)]  # from a Monday on
MONTHS = [datetime(2024, month, 1).strftime("%B") for month in range(1, 13)]


def solve_family(text: str) -> str:
    couples = re.findall(r"(\w+) is married to (\w+)\.", text)
    couples += re.findall(r"(\w+) and (\w+) are a married couple", text)
    told = re.findall(r"(\w+) and (\w+) have two children, (\w+) and (\w+)\.", text)
    told += re.findall(r"children of (\w+) and (\w+) are called (\w+) and (\w+)\.", text)
    parents = {child: {a, b} for a, b, *children in told for child in children}
    a, b = re.search(
        r"(?:What is|How is|one word:) (\w+) (?:to|related to|is the \.\.\. of) (\w+)[?.]", text
    ).groups()
    spouses = {frozenset(pair) for pair in couples}

    def siblings(x: str, y: str) -> bool:
        return x != y and x in parents and parents.get(x) == parents.get(y)

    def grand(x: str) -> set[str]:
        return {g for p in parents.get(x, ()) for g in parents.get(p, ())}

    woman = a in WOMEN
    cases = [
        (a in parents.get(b, ()), "father mother"),
        (b in parents.get(a, ()), "son daughter"),
        (siblings(a, b), "brother sister"),
        (frozenset((a, b)) in spouses, "husband wife"),
        (a in grand(b), "grandfather grandmother"),
        (b in grand(a), "grandson granddaughter"),
        (any(siblings(a, p) for p in parents.get(b, ())), "uncle aunt"),
        (any(siblings(b, p) for p in parents.get(a, ())), "nephew niece"),
    ]
    (words,) = [words for holds, words in cases if holds]
    return words.split()[woman]


def solve_calendar(text: str) -> str:
    if span := re.search(r"(\d+) days?\b", text):  # a weekday, so many days ahead or back
        day = WEEKDAYS.index(re.search("|".join(WEEKDAYS), text)[0])
        back = re.search(r"ago|posted|earlier", text)
        monday = datetime(2024, 1, 1)
        moved = monday + timedelta(days=day + int(span[1]) * (-1 if back else 1))
        return moved.strftime("%A")
    if months := re.search(r"(\d+) months", text):
        start = MONTHS.index(re.search("|".join(MONTHS), text)[0])
        return MONTHS[(start + int(months[1])) % 12]
    year = re.search(r"\d{4}", text)[0]
    first, second = (
        datetime.strptime(f"{found[0]} {year}", "%B %d %Y")
        for found in re.finditer(rf"(?:{'|'.join(MONTHS)}) \d+", text)
    )
    weekday = re.search("|".join(WEEKDAYS), text)
    if weekday:
        assert first.strftime("%A") == weekday[0]
        return second.strftime("%A")
    return str((second - first).days)


def solve_letters(text: str) -> str:
    letter = re.search(r'"(\w)"', text)[1]
    inside = re.search(r'"(\w{2,}[\w ]*)"', text)
    words = inside[1] if inside else text.rpartition(": ")[2]
    return str(words.count(letter))


def solve_position(text: str) -> str:
    words = re.search(r'"([^"]+)"', text)[1].split()
    tail = text.replace(" ".join(words), "")
    word = words[1] if len(words) == 2 and "second" in tail else words[0]
    last = re.search(r"last (letter|one)|\bend\?", tail)
    return word[-1] if last else word[0]


def solve_syllogism(text: str) -> str:
    """Search all ways to fill the seven regions of three groups for a counterexample."""
    found = re.findall(r"(all|no|some) (\w+) are (not )?(\w+)", text.lower())
    assert len(found) == 3
    groups = sorted({x for _, x, _, _ in found} | {y for *_, y in found})
    assert len(groups) == 3
    regions = [dict(zip(groups, bits, strict=True)) for bits in itertools.product((0, 1), repeat=3)]

    def holds(statement: tuple[str, str, str, str], world: list[dict[str, int]]) -> bool:
        quantifier, x, negated, y = statement
        both = any(r[x] and r[y] for r in world)
        outside = any(r[x] and not r[y] for r in world)
        return {"all": not outside, "no": not both, "some": outside if negated else both}[
            quantifier
        ]

    answers = set()
    for populated in (False, True):  # groups may be empty; every group has a member
        worlds = [
            [r for r, there in zip(regions, bits, strict=True) if there]
            for bits in itertools.product((0, 1), repeat=8)
        ]
        if populated:
            worlds = [w for w in worlds if all(any(r[g] for r in w) for g in groups)]
        models = [w for w in worlds if holds(found[0], w) and holds(found[1], w)]
        assert models
        answers.add("yes" if all(holds(found[2], w) for w in models) else "no")
    (answer,) = answers  # logicians of both schools agree on every question
    return answer


def solve_sum(text: str) -> str:
    if "Start with" in text:
        text = text.replace(", then add", " +").replace(", then take away", " -")
    return str(eval(re.search(r"\d+(?: [+-] \d+)+", text)[0]))


def solve_sequence(text: str) -> str:
    terms = [int(n) for n in re.findall(r"-?\d+", text)]
    steps = [b - a for a, b in itertools.pairwise(terms)]
    if len(set(steps)) == 1:
        return str(terms[-1] + steps[0])
    if all(b == 2 * a for a, b in itertools.pairwise(terms)):
        return str(2 * terms[-1])
    assert steps[2:] == steps[:-2]
    return str(terms[-1] + steps[-2])


def solve_rank(text: str) -> str:
    numbers = sorted(int(n) for n in re.findall(r"\d+", text))
    rank = re.search(r"(second )?(largest|smallest)", text)
    if rank[2] == "largest":
        numbers.reverse()
    return str(numbers[1 if rank[1] else 0])


SOLVERS = {
    "calendar_arithmetic": solve_calendar,
    "chain_sum": solve_sum,
    "family_relationships": solve_family,
    "letter_counting": solve_letters,
    "letter_position": solve_position,
    "number_rank": solve_rank,
    "number_sequence": solve_sequence,
    "syllogism": solve_syllogism,
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[ProceduralQuestion]]:
    return {task: draw_questions([task], N, seed=5) for task in TASKS}


def test_every_task_has_a_solver() -> None:
    assert SOLVERS.keys() == TASKS.keys()


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_is_what_an_independent_solver_finds(
    task: str, drawn: dict[str, list[ProceduralQuestion]]
) -> None:
    wrong = [q for q in drawn[task] if SOLVERS[task](q.question) != q.answer]
    assert not wrong


@pytest.mark.parametrize("task", TASKS)
def test_choices_are_distinct_and_hold_the_answer_once(
    task: str, drawn: dict[str, list[ProceduralQuestion]]
) -> None:
    for q in drawn[task]:
        assert q.task == task
        assert len(q.choices) == len(set(q.choices)) == (2 if task == "syllogism" else 4)
        assert q.choices.count(q.answer) == 1
        assert not any(choice.startswith("-") for choice in q.choices)


@pytest.mark.parametrize("task", TASKS)
def test_the_place_of_the_answer_says_nothing(
    task: str, drawn: dict[str, list[ProceduralQuestion]]
) -> None:
    size = 2 if task == "syllogism" else 4
    places = Counter(q.choices.index(q.answer) for q in drawn[task])
    assert max(places.values()) / N < 1 / size + 0.09
    assert len(places) == size


@pytest.mark.parametrize("task", TASKS)
def test_the_rank_of_a_number_among_the_choices_says_nothing(
    task: str, drawn: dict[str, list[ProceduralQuestion]]
) -> None:
    numeric = [q for q in drawn[task] if all(choice.isdigit() for choice in q.choices)]
    ranks = Counter(sorted(map(int, q.choices)).index(int(q.answer)) for q in numeric)
    if len(numeric) > 50:
        assert max(ranks.values()) / len(numeric) < 0.37


# Always giving the commonest answer must not pay: half of a yes/no task, a quarter of four counts.
CEILINGS = {"syllogism": 0.6, "letter_counting": 0.33, "letter_position": 0.25}


@pytest.mark.parametrize("task", TASKS)
def test_the_commonest_answer_is_rarely_right(
    task: str, drawn: dict[str, list[ProceduralQuestion]]
) -> None:
    share = Counter(q.answer for q in drawn[task]).most_common(1)[0][1] / N
    assert share < CEILINGS.get(task, 0.18)


def test_neither_the_mood_nor_the_wording_of_a_syllogism_gives_its_answer(
    drawn: dict[str, list[ProceduralQuestion]],
) -> None:
    groups: dict[str, Counter[str]] = {}
    for q in drawn["syllogism"]:
        *premises, _ = re.findall(r"(all|no|some) \w+ are (not )?", q.question.lower())
        for feature in (str(sorted(premises)), q.question.split()[0]):
            groups.setdefault(feature, Counter())[q.answer] += 1
    assert all(0.25 < c["yes"] / c.total() < 0.75 for c in groups.values() if c.total() > 30)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_short_and_answers_one_word(
    task: str, drawn: dict[str, list[ProceduralQuestion]]
) -> None:
    lengths = [len(q.question.split()) for q in drawn[task]]
    assert min(lengths) >= 12
    assert max(lengths) <= 60
    assert all(re.fullmatch(r"\w+", q.answer) for q in drawn[task])


def test_lengths_are_ragged(drawn: dict[str, list[ProceduralQuestion]]) -> None:
    means = [sum(len(q.question) for q in qs) / N for qs in drawn.values()]
    assert max(means) > 2 * min(means)
