"""Verifiable questions made from a seed: the embedded data, for training and for evaluation.

Every question belongs to one of two sides, fixed by its text alone: three in four texts may be
trained on, one in four may be asked in a test. So no training question can turn up in any test,
whatever the seeds and sizes, and the training rows do not depend on what the test asks.

Start at the end, with `draw_questions`. Before it come the tasks, one function each: words and
syllogisms, numbers and the calendar, a family of three generations. What they ask with, word lists
and wordings, is in `procedural.yaml`.
"""

import calendar
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any, Literal

import yaml

from qlora_repro.config.messages import nearest_names
from qlora_repro.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ProceduralQuestion:
    """One verifiable question. Its text is its identity: equal text, equal question."""

    task: str  # a key of procedural.TASKS
    question: str
    answer: str  # one word, letter or number, as it must be written
    choices: tuple[str, ...]  # distinct, the answer among them once; 4, or 2 for yes and no


Draft = tuple[str, str, list[str]]  # a question, its answer and the wrong choices beside it
TEXTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
WORDS, GROUPS, MEN, WOMEN = (TEXTS[name].split() for name in ("words", "groups", "men", "women"))
WORDINGS: dict[str, list[str]] = TEXTS["wordings"]


def nearby_numbers(rng: Random, answer: int) -> list[str]:
    """Return three whole numbers around an answer of at least 3, none below zero, as text.

    The answer is as likely to be the smallest of the four as the largest, and the gaps between
    neighbours are all drawn alike, so the four numbers by themselves do not give it away.
    """
    assert answer >= 3, f"{answer} leaves no room for three smaller numbers"
    widest = min(9, answer // 3)
    below = rng.randrange(4)  # how many of the three lie below the answer
    smaller, larger = answer, answer
    numbers = []
    for number in range(3):
        if number < below:
            smaller -= rng.randint(1, widest)
            numbers.append(str(smaller))
        else:
            larger += rng.randint(1, widest)
            numbers.append(str(larger))
    return numbers


QUANTIFIED = {
    "A": "all {x} are {y}",
    "E": "no {x} are {y}",
    "I": "some {x} are {y}",
    "O": "some {x} are not {y}",
}
CONTRARY = {"A": "O", "E": "I", "I": "E", "O": "A"}  # never true together
# Mood -> (figures in which the conclusion follows, figures in which it does not even when every
# group has members). A mood that holds in all figures or in none would give its answer away.
MOODS = {
    "AAA": ((1,), (2, 3, 4)),
    "EAE": ((1, 2), (3, 4)),
    "AEE": ((2, 4), (1, 3)),
    "AII": ((1, 3), (2, 4)),
    "IAI": ((3, 4), (1, 2)),
    "AOO": ((2,), (1, 3, 4)),
    "OAO": ((3,), (1, 2, 4)),
}
# Figure -> the terms of the two premises: s and p are those of the conclusion, m joins them.
FIGURES = {1: ("mp", "sm"), 2: ("pm", "sm"), 3: ("mp", "ms"), 4: ("pm", "ms")}


def letter_counting(rng: Random) -> Draft:
    """A letter that occurs one to four times in two to five words, each count equally often."""
    count = rng.randint(1, 4)
    while True:
        text = " ".join(rng.sample(WORDS, rng.randint(2, 5)))
        letters = sorted({c for c in text if c != " " and text.count(c) == count})
        if letters:
            break
    question = rng.choice(WORDINGS["letter_counting"]).format(letter=rng.choice(letters), text=text)
    return question, str(count), [str(n) for n in range(1, 5) if n != count]


def letter_position(rng: Random) -> Draft:
    """The first or last letter of a word, or of one word of two; wrong choices are its letters."""
    pair = rng.sample(WORDS, 2)
    which, last = rng.randrange(2), rng.random() < 0.5
    word = pair[which]
    question = rng.choice(WORDINGS["letter_position"]).format(
        word=word,
        pair=" ".join(pair),
        place=("first", "second")[which],
        end="last" if last else "first",
        verb="end" if last else "begin",
    )
    answer = word[-1] if last else word[0]
    return question, answer, rng.sample(sorted(set(word) - {answer}), 3)


def syllogism(rng: Random) -> Draft:
    """Two premises and a conclusion about three groups; half of the conclusions follow.

    Half of those that do not are the contrary of what follows, half have the terms of a premise
    the wrong way round, so neither the premises' nor the conclusion's form decides alone.
    """
    mood, (valid, invalid) = rng.choice(list(MOODS.items()))
    answer = rng.choice(("yes", "no"))
    twist = answer == "no" and rng.random() < 0.5
    figure = rng.choice(valid if answer == "yes" or twist else invalid)
    terms = dict(zip("smp", rng.sample(GROUPS, 3), strict=True))

    def state(form: str, pair: str) -> str:
        return QUANTIFIED[form].format(x=terms[pair[0]], y=terms[pair[1]])

    premises = [state(form, pair) for form, pair in zip(mood, FIGURES[figure], strict=False)]
    rng.shuffle(premises)
    end = state(CONTRARY[mood[2]] if twist else mood[2], "sp")
    one, two = premises
    capitals = {"One": one.capitalize(), "Two": two.capitalize()}
    question = rng.choice(WORDINGS["syllogism"]).format(one=one, two=two, end=end, **capitals)
    return question, answer, ["no" if answer == "yes" else "yes"]


WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = tuple(calendar.month_name[1:])

RANKS = {"largest": -1, "smallest": 0, "second largest": -2, "second smallest": 1}


def chain_sum(rng: Random) -> Draft:
    """Two to four numbers up to 20, added and subtracted; no step falls below 3."""
    total = rng.randint(3, 20)
    text, story = str(total), str(total)
    for _ in range(rng.randint(1, 3)):
        step = rng.randint(1, 20)
        minus = step <= total - 3 and rng.random() < 0.5
        total += -step if minus else step
        text += f" - {step}" if minus else f" + {step}"
        story += f", then {'take away' if minus else 'add'} {step}"
    question = rng.choice(WORDINGS["chain_sum"]).format(sum=text, story=story)
    return question, str(total), nearby_numbers(rng, total)


def number_sequence(rng: Random) -> Draft:
    """Four to seven terms: a constant step, two steps in turn, or doubling."""
    length = rng.randint(4, 7)
    kind = rng.choices(("step", "turns", "double"), weights=(6, 2, 2))[0]
    if kind == "double":
        first, length = rng.randint(1, 9), min(length, 5)
        terms = [first * 2**power for power in range(length + 1)]
    else:
        steps = rng.sample([s for s in range(-9, 13) if s], 2)
        if kind == "step":
            steps[1] = steps[0]
        else:
            length = max(length, 5)  # both steps are seen twice before the answer needs one
        terms = [rng.randint(70, 99) if sum(steps) < 0 else rng.randint(13, 40)]
        for number in range(length):
            terms.append(terms[-1] + steps[number % 2])
    shown = ", ".join(map(str, terms[:-1]))
    question = rng.choice(WORDINGS["number_sequence"]).format(terms=shown)
    return question, str(terms[-1]), nearby_numbers(rng, terms[-1])


def number_rank(rng: Random) -> Draft:
    """Largest, smallest, second largest or second smallest of four to seven different numbers."""
    numbers = rng.sample(range(1, 100), rng.randint(4, 7))
    rank, place = rng.choice(list(RANKS.items()))
    ordered = sorted(numbers)
    answer = ordered[place]
    # The choices keep the answer's rank, so each of the four places in them is right equally often.
    beyond = {-1: [], 0: [], -2: ordered[-1:], 1: ordered[:1]}[place]
    rest = [n for n in numbers if n != answer and n not in beyond]
    others = beyond + rng.sample(rest, 3 - len(beyond))
    shown = ", ".join(map(str, numbers))
    question = rng.choice(WORDINGS["number_rank"]).format(numbers=shown, rank=rank)
    return question, str(answer), [str(n) for n in others]


def calendar_arithmetic(rng: Random) -> Draft:
    """Days of the week ahead or back, dates within a month, days between dates, months ahead."""
    kinds = (_day_shift, _day_of_date, _days_between, _month_shift)
    return rng.choices(kinds, weights=(4, 3, 2, 2))[0](rng)


def _day_shift(rng: Random) -> Draft:
    start, count, sign = rng.randrange(7), rng.randint(1, 30), rng.choice((1, -1))
    answer = WEEKDAYS[(start + sign * count) % 7]
    span = "1 day" if count == 1 else f"{count} days"
    wording = "days_ahead" if sign == 1 else "days_back"
    question = rng.choice(WORDINGS[wording]).format(day=WEEKDAYS[start], span=span)
    return question, answer, _draw_distractors(rng, WEEKDAYS, answer)


def _day_of_date(rng: Random) -> Draft:
    first, second = _draw_two_dates(rng)
    answer = WEEKDAYS[second.weekday()]
    dates = {"first": _format_date(first), "second": _format_date(second), "year": first.year}
    question = rng.choice(WORDINGS["day_of_date"]).format(day=WEEKDAYS[first.weekday()], **dates)
    return question, answer, _draw_distractors(rng, WEEKDAYS, answer)


def _days_between(rng: Random) -> Draft:
    first, second = _draw_two_dates(rng)
    days = (second - first).days
    dates = {"first": _format_date(first), "second": _format_date(second), "year": first.year}
    question = rng.choice(WORDINGS["days_between"]).format(**dates)
    return question, str(days), nearby_numbers(rng, days)


def _month_shift(rng: Random) -> Draft:
    start, count = rng.randrange(12), rng.randint(2, 30)
    answer = MONTHS[(start + count) % 12]
    question = rng.choice(WORDINGS["months_ahead"]).format(month=MONTHS[start], count=count)
    return question, answer, _draw_distractors(rng, MONTHS, answer)


def _draw_two_dates(rng: Random) -> tuple[date, date]:
    """Return two dates of one year, 3 to 40 days apart, the earlier one first."""
    first = date(rng.randint(1950, 2049), 1, 1) + timedelta(days=rng.randrange(320))
    return first, first + timedelta(days=rng.randint(3, 40))


def _format_date(day: date) -> str:
    return f"{MONTHS[day.month - 1]} {day.day}"


def _draw_distractors(rng: Random, names: tuple[str, ...], answer: str) -> list[str]:
    return rng.sample([name for name in names if name != answer], 3)


# Relation -> (its word for a man, for a woman)
RELATIONS = {
    "parent": ("father", "mother"),
    "child": ("son", "daughter"),
    "sibling": ("brother", "sister"),
    "spouse": ("husband", "wife"),
    "grandparent": ("grandfather", "grandmother"),
    "grandchild": ("grandson", "granddaughter"),
    "sibling of parent": ("uncle", "aunt"),
    "child of sibling": ("nephew", "niece"),
}


@dataclass(frozen=True, kw_only=True)
class Household:
    """A couple and their two children, by name."""

    parents: tuple[str, str]
    children: tuple[str, str]

    def describe(self, rng: Random) -> str:
        """Return the two sentences that say who is married and who are the children."""
        a, b = rng.sample(self.parents, 2)
        c, d = rng.sample(self.children, 2)
        couple = rng.choice(WORDINGS["couple"]).format(a=a, b=b)
        return f"{couple} {rng.choice(WORDINGS['children']).format(a=a, b=b, c=c, d=d)}"


def family_relationships(rng: Random) -> Draft:
    """What one member of a family is to another; all sixteen words are equally likely."""
    relation, words = rng.choice(list(RELATIONS.items()))
    woman = rng.random() < 0.5
    pairs: list[tuple[str, str]] = []
    while not pairs:  # a family may lack the man or the woman that the question needs
        elders, young = _draw_family(rng)
        pairs = [
            (a, b) for a, b in _related_pairs(elders, young, relation) if (a in WOMEN) == woman
        ]
    a, b = rng.choice(pairs)
    households = [elders, young]
    enough = [house for house in households if {a, b} <= {*house.parents, *house.children}]
    if enough and rng.random() < 0.5:
        households = enough  # a short question: the other household has no part in the answer
    rng.shuffle(households)
    story = " ".join(house.describe(rng) for house in households)
    question = f"{story} {rng.choice(WORDINGS['family_relationships']).format(a=a, b=b)}"
    # A second relation in both its forms beside the answer's two: four words, two alike in pairs.
    second = RELATIONS[rng.choice([name for name in RELATIONS if name != relation])]
    return question, words[woman], [words[not woman], *second]


def _draw_family(rng: Random) -> tuple[Household, Household]:
    """Return the grandparents' household and that of one of their children."""
    men, women = list(rng.sample(MEN, 6)), list(rng.sample(WOMEN, 6))
    child, uncle, first, second = (rng.choice((men, women)).pop() for _ in range(4))
    spouse = (men if child in WOMEN else women).pop()
    elders = Household(parents=(men.pop(), women.pop()), children=(child, uncle))
    return elders, Household(parents=(child, spouse), children=(first, second))


def _related_pairs(elders: Household, young: Household, relation: str) -> list[tuple[str, str]]:
    """Return every (a, b) of the family where a is the `relation` of b."""
    _, sibling = elders.children
    down = [(a, b) for house in (elders, young) for a in house.parents for b in house.children]
    grand = [(a, b) for a in elders.parents for b in young.children]
    aside = [(sibling, b) for b in young.children]
    return {
        "parent": down,
        "child": _reverse_pairs(down),
        "sibling": [p for h in (elders, young) for p in (h.children, h.children[::-1])],
        "spouse": [p for h in (elders, young) for p in (h.parents, h.parents[::-1])],
        "grandparent": grand,
        "grandchild": _reverse_pairs(grand),
        "sibling of parent": aside,
        "child of sibling": _reverse_pairs(aside),
    }[relation]


def _reverse_pairs(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(b, a) for a, b in pairs]


TASKS: dict[str, Callable[[Random], Draft]] = {
    "calendar_arithmetic": calendar_arithmetic,
    "chain_sum": chain_sum,
    "family_relationships": family_relationships,
    "letter_counting": letter_counting,
    "letter_position": letter_position,
    "number_rank": number_rank,
    "number_sequence": number_sequence,
    "syllogism": syllogism,
}
MAX_REDRAWS = 2000  # draws in a row without a new question before the task counts as used up

Split = Literal["train", "test"]


def split_of(question: str) -> Split:
    """Return the side that a question's text belongs to; one text in four is for tests.

    >>> split_of("What is 2 + 2?"), split_of("What is 2 + 3?")
    ('test', 'train')
    """
    return "test" if hashlib.sha256(question.encode()).digest()[0] % 4 == 0 else "train"


def draw_questions(
    tasks: list[str] | None, rows: int, *, seed: int, split: Split | None = None
) -> list[ProceduralQuestion]:
    """Return so many different questions, the tasks in turn; the same ones for the same seed.

    Args:
        tasks: Keys of TASKS; None: all of them. Each task has its own random stream, so its
            questions do not change when another task comes or goes.
        rows: How many questions.
        seed: Of the streams.
        split: Only questions of this side; None: of both.

    Raises:
        DataError: For an unknown or repeated task and when a task has no new question left.
    """
    names = _check_tasks(tasks)
    streams = [_draw_from_task(name, Random(f"{seed}/{name}"), split=split) for name in names]
    return [next(stream) for stream in islice(cycle(streams), rows)]


def draw_test_questions(
    tasks: list[str] | None, *, per_task: int, seed: int
) -> list[ProceduralQuestion]:
    """Return the test questions, so many of each task; none of them can be a training question."""
    return draw_questions(tasks, per_task * len(_check_tasks(tasks)), seed=seed, split="test")


def _check_tasks(tasks: list[str] | None) -> list[str]:
    names = list(TASKS) if tasks is None else tasks
    if not names:
        raise DataError("data.tasks is empty; name at least one task, or null for all of them")
    for name in names:
        if name not in TASKS:
            near = nearest_names(name, TASKS, cutoff=0)[0]
            raise DataError(
                f"there is no procedural task {name!r}; the nearest is {near!r}, and all are "
                f"{', '.join(TASKS)}"
            )
        if names.count(name) > 1:
            raise DataError(f"data.tasks names {name!r} {names.count(name)} times; name it once")
    return names


def _draw_from_task(name: str, rng: Random, *, split: Split | None) -> Iterator[ProceduralQuestion]:
    """Yield the task's questions without repeating one."""
    seen: set[str] = set()
    while True:
        for _ in range(MAX_REDRAWS):
            question, answer, others = TASKS[name](rng)
            choices = [answer, *others]
            rng.shuffle(choices)
            if question not in seen and split in (None, split_of(question)):
                break
        else:
            raise DataError(
                f"the procedural task {name!r} has no new question after {len(seen)}; ask for "
                "fewer rows or for more tasks"
            )
        seen.add(question)
        yield ProceduralQuestion(
            task=name, question=question, answer=answer, choices=tuple(choices)
        )
