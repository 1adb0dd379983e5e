"""Verifiable questions made from a seed: the embedded data, for training and for evaluation.

Every question belongs to one of two sides, fixed by its text alone: three in four texts may be
trained on, one in four may be asked in a test. So no training question can turn up in any test,
whatever the seeds and sizes, and the training rows do not depend on what the test asks.

Start at the end, with `draw_questions`. Before it come the tasks, one function each: words and
syllogisms, numbers and the calendar, a family of three generations.
"""

import calendar
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import cycle, islice
from random import Random
from typing import Literal

from qlora_repro.config.messages import nearest_names
from qlora_repro.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ProceduralQuestion:
    """One verifiable question. Its text is its identity: equal text, equal question."""

    task: str  # a key of procedural.TASKS
    question: str
    answer: str  # one word, letter or number, as it must be written
    choices: tuple[str, ...]  # distinct, the answer among them once; 4, or 2 for yes and no


def shuffle_choices(
    rng: Random, task: str, question: str, answer: str, *, others: list[str]
) -> ProceduralQuestion:
    """Return a question whose answer stands at a random place among its choices."""
    choices = [answer, *others]
    rng.shuffle(choices)
    return ProceduralQuestion(task=task, question=question, answer=answer, choices=tuple(choices))


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


WORD_LIST = """
anchor apple autumn badger balloon basket beetle blanket bottle branch bridge brother bucket
butter button cabin camera candle carpet carrot castle cellar chapter cherry circle cloud coffee
copper corner cotton cousin curtain dancer desert dinner doctor donkey dragon engine evening
farmer feather fever finger flower forest fountain garden ginger glacier goblet guitar hammer
harbor helmet herald honey hunter insect island jacket jungle kettle kitchen ladder lantern
lemon letter lizard magnet market meadow melon mirror monkey morning mountain napkin needle
number ocean office orange orchard oyster palace paper parade parrot pencil pillow pilot pirate
planet pocket potato powder puzzle rabbit ribbon river robin rocket saddle sailor salad school
season shadow shelter silver singer sister spider spring station stone summer teacher temple
thread thunder ticket tiger timber tomato tunnel turtle umbrella valley velvet village violin
wagon walnut weather window winter wizard yellow
"""
WORDS = tuple(WORD_LIST.split())
COUNT_WORDINGS = (
    'How many times does the letter "{letter}" occur in the text "{text}"? Reply with a number.',
    'Count every "{letter}" in the following words and write down how many you found: {text}',
    'Someone spells out "{text}" letter by letter. How often is the letter "{letter}" said?',
)
LETTER_WORDINGS = (
    'What is the {end} letter of the word "{word}"? Reply with that one letter in lower case.',
    'Take the word "{word}" and write down only its {end} letter, in lower case.',
    'In "{pair}", look at the {place} of the two words. Which letter is its {end} one?',
    'Two cards show the words "{pair}". With which letter does the {place} word {verb}?',
)
GROUP_LIST = """
actors bakers bankers barbers climbers coaches cyclists dancers dentists divers drummers editors
farmers gardeners golfers joggers judges lawyers magicians miners nurses painters pilots
plumbers poets sailors singers skaters students surgeons tailors teachers tourists vegans voters
waiters weavers writers
"""
GROUPS = tuple(GROUP_LIST.split())
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
SYLLOGISM_WORDINGS = (
    "Suppose that {one} and that {two}. Does it follow that {end}? Answer yes or no.",
    "These two statements are true: {one}; {two}. Must it then be true that {end}? Reply with yes "
    "or no.",
    'A speaker says: "{One}. {Two}. Therefore, {end}." Is the argument valid, whatever the words '
    "mean? Answer yes or no.",
)


def letter_counting(rng: Random) -> ProceduralQuestion:
    """A letter that occurs one to four times in two to five words, each count equally often."""
    count = rng.randint(1, 4)
    while True:
        text = " ".join(rng.sample(WORDS, rng.randint(2, 5)))
        letters = sorted({c for c in text if c != " " and text.count(c) == count})
        if letters:
            break
    question = rng.choice(COUNT_WORDINGS).format(letter=rng.choice(letters), text=text)
    others = [str(n) for n in range(1, 5) if n != count]
    return shuffle_choices(rng, "letter_counting", question, str(count), others=others)


def letter_position(rng: Random) -> ProceduralQuestion:
    """The first or last letter of a word, or of one word of two; wrong choices are its letters."""
    pair = rng.sample(WORDS, 2)
    which, last = rng.randrange(2), rng.random() < 0.5
    word = pair[which]
    question = rng.choice(LETTER_WORDINGS).format(
        word=word,
        pair=" ".join(pair),
        place=("first", "second")[which],
        end="last" if last else "first",
        verb="end" if last else "begin",
    )
    answer = word[-1] if last else word[0]
    others = sorted(set(word) - {answer})
    return shuffle_choices(rng, "letter_position", question, answer, others=rng.sample(others, 3))


def syllogism(rng: Random) -> ProceduralQuestion:
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
    question = rng.choice(SYLLOGISM_WORDINGS).format(
        one=one, two=two, One=one.capitalize(), Two=two.capitalize(), end=end
    )
    others = ["no" if answer == "yes" else "yes"]
    return shuffle_choices(rng, "syllogism", question, answer, others=others)


WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = tuple(calendar.month_name[1:])

SUM_WORDINGS = (
    "Work out the following sum and reply with the resulting number alone: {sum} =",
    "A pupil writes {sum} on the board. Which number should stand after the equals sign?",
    "Please calculate {sum} from left to right. Give only the number you end up with.",
    "Start with {story}. Which number do you have in the end? Reply with that number alone.",
)
SEQUENCE_WORDINGS = (
    "The numbers {terms} follow a simple rule. Which number comes next in the row?",
    "Look at this pattern: {terms}. Write down the one number that should follow.",
    "Each number below is made from the one before it in a regular way. Continue the list by "
    "one number: {terms}",
    "{terms}, and then? Find the rule behind these numbers and give the next one.",
)
RANKS = {"largest": -1, "smallest": 0, "second largest": -2, "second smallest": 1}
RANK_WORDINGS = (
    "Here is a list of numbers: {numbers}. Which of them is the {rank}? Reply with the number.",
    "Put the numbers {numbers} in order in your head. What is the {rank} number of the list?",
    "The players of a game scored these points: {numbers}. Write down the {rank} score.",
    "Among {numbers}, find the {rank} number and give it as your whole reply.",
)
SHIFT_WORDINGS = {
    1: (
        "Today is {day}. Which day of the week will it be {span} from now?",
        "A parcel is sent on a {day} and arrives exactly {span} later. On which day of the week "
        "does it arrive?",
        "If it is {day} now, what will the name of the day be after {span} have passed?",
    ),
    -1: (
        "Today is {day}. Which day of the week was it {span} ago?",
        "A letter arrived on a {day}, exactly {span} after it was posted. On which day of the "
        "week was it posted?",
        "If it is {day} now, what was the name of the day {span} earlier?",
    ),
}
DATE_WORDINGS = (
    "In the year {year}, {first} falls on a {day}. Which day of the week is {second} of that year?",
    "A calendar for {year} shows that {first} is a {day}. Find the day of the week on which "
    "{second} falls in the same year.",
)
SPAN_WORDINGS = (
    "A trip begins on {first}, {year} and ends on {second}, {year}. How many days after the start "
    "does it end?",
    "Count the days from {first} to {second} in the year {year}, leaving out the first day. How "
    "many are there?",
)
MONTH_WORDINGS = (
    "It is {month} now. Which month of the year will it be {count} months from now?",
    "A loan taken out in {month} must be paid back {count} months later. In which month is that?",
)


def chain_sum(rng: Random) -> ProceduralQuestion:
    """Two to four numbers up to 20, added and subtracted; no step falls below 3."""
    total = rng.randint(3, 20)
    text, story = str(total), str(total)
    for _ in range(rng.randint(1, 3)):
        step = rng.randint(1, 20)
        minus = step <= total - 3 and rng.random() < 0.5
        total += -step if minus else step
        text += f" - {step}" if minus else f" + {step}"
        story += f", then {'take away' if minus else 'add'} {step}"
    question = rng.choice(SUM_WORDINGS).format(sum=text, story=story)
    return shuffle_choices(
        rng, "chain_sum", question, str(total), others=nearby_numbers(rng, total)
    )


def number_sequence(rng: Random) -> ProceduralQuestion:
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
    question = rng.choice(SEQUENCE_WORDINGS).format(terms=shown)
    return shuffle_choices(
        rng, "number_sequence", question, str(terms[-1]), others=nearby_numbers(rng, terms[-1])
    )


def number_rank(rng: Random) -> ProceduralQuestion:
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
    question = rng.choice(RANK_WORDINGS).format(numbers=shown, rank=rank)
    return shuffle_choices(
        rng, "number_rank", question, str(answer), others=[str(n) for n in others]
    )


def calendar_arithmetic(rng: Random) -> ProceduralQuestion:
    """Days of the week ahead or back, dates within a month, days between dates, months ahead."""
    kinds = (_day_shift, _day_of_date, _days_between, _month_shift)
    question, answer, others = rng.choices(kinds, weights=(4, 3, 2, 2))[0](rng)
    return shuffle_choices(rng, "calendar_arithmetic", question, answer, others=others)


def _day_shift(rng: Random) -> tuple[str, str, list[str]]:
    start, count, sign = rng.randrange(7), rng.randint(1, 30), rng.choice((1, -1))
    answer = WEEKDAYS[(start + sign * count) % 7]
    span = "1 day" if count == 1 else f"{count} days"
    question = rng.choice(SHIFT_WORDINGS[sign]).format(day=WEEKDAYS[start], span=span)
    return question, answer, _draw_distractors(rng, WEEKDAYS, answer)


def _day_of_date(rng: Random) -> tuple[str, str, list[str]]:
    first, second = _draw_two_dates(rng)
    answer = WEEKDAYS[second.weekday()]
    question = rng.choice(DATE_WORDINGS).format(
        year=first.year,
        first=_format_date(first),
        second=_format_date(second),
        day=WEEKDAYS[first.weekday()],
    )
    return question, answer, _draw_distractors(rng, WEEKDAYS, answer)


def _days_between(rng: Random) -> tuple[str, str, list[str]]:
    first, second = _draw_two_dates(rng)
    days = (second - first).days
    question = rng.choice(SPAN_WORDINGS).format(
        year=first.year, first=_format_date(first), second=_format_date(second)
    )
    return question, str(days), nearby_numbers(rng, days)


def _month_shift(rng: Random) -> tuple[str, str, list[str]]:
    start, count = rng.randrange(12), rng.randint(2, 30)
    answer = MONTHS[(start + count) % 12]
    question = rng.choice(MONTH_WORDINGS).format(month=MONTHS[start], count=count)
    return question, answer, _draw_distractors(rng, MONTHS, answer)


def _draw_two_dates(rng: Random) -> tuple[date, date]:
    """Return two dates of one year, 3 to 40 days apart, the earlier one first."""
    first = date(rng.randint(1950, 2049), 1, 1) + timedelta(days=rng.randrange(320))
    return first, first + timedelta(days=rng.randint(3, 40))


def _format_date(day: date) -> str:
    return f"{MONTHS[day.month - 1]} {day.day}"


def _draw_distractors(rng: Random, names: tuple[str, ...], answer: str) -> list[str]:
    return rng.sample([name for name in names if name != answer], 3)


MENS_NAMES = """
Adam Albert Arthur Carl Charles Daniel David Edward Eric Frank George Harold Henry Hugo Jack
James John Joseph Kevin Leo Mark Martin Michael Oliver Oscar Paul Peter Philip Ralph Richard
Robert Simon Stephen Thomas Victor Walter William
"""
WOMENS_NAMES = """
Alice Amanda Anna Barbara Bella Carol Caroline Clara Diana Edith Elena Emily Emma Eva Fiona
Grace Hannah Helen Irene Jane Julia Karen Laura Linda Lucy Maria Martha Mary Nancy Nora Olivia
Rachel Rose Ruth Sarah Sophie Susan
"""
MEN = tuple(MENS_NAMES.split())
WOMEN = tuple(WOMENS_NAMES.split())
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
COUPLE = ("{a} is married to {b}.", "{a} and {b} are a married couple.")
CHILDREN = (
    "{a} and {b} have two children, {c} and {d}.",
    "The two children of {a} and {b} are called {c} and {d}.",
)
QUESTIONS = (
    "What is {a} to {b}? Reply with one word.",
    "How is {a} related to {b}? Give the family word alone.",
    "Complete the sentence with one word: {a} is the ... of {b}.",
)


@dataclass(frozen=True, kw_only=True)
class Household:
    """A couple and their two children, by name."""

    parents: tuple[str, str]
    children: tuple[str, str]

    def describe(self, rng: Random) -> str:
        """Return the two sentences that say who is married and who are the children."""
        a, b = rng.sample(self.parents, 2)
        c, d = rng.sample(self.children, 2)
        couple = rng.choice(COUPLE).format(a=a, b=b)
        return f"{couple} {rng.choice(CHILDREN).format(a=a, b=b, c=c, d=d)}"


def family_relationships(rng: Random) -> ProceduralQuestion:
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
    question = f"{story} {rng.choice(QUESTIONS).format(a=a, b=b)}"
    # A second relation in both its forms beside the answer's two: four words, two alike in pairs.
    second = RELATIONS[rng.choice([name for name in RELATIONS if name != relation])]
    answer = words[woman]
    others = [words[not woman], *second]
    return shuffle_choices(rng, "family_relationships", question, answer, others=others)


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


TASKS: dict[str, Callable[[Random], ProceduralQuestion]] = {
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
    if rows < 1:
        raise DataError(f"{rows} procedural rows were asked for; data.rows must be at least 1")
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
            question = TASKS[name](rng)
            if question.question not in seen and split in (None, split_of(question.question)):
                break
        else:
            raise DataError(
                f"the procedural task {name!r} has no new question after {len(seen)}; ask for "
                "fewer rows or for more tasks"
            )
        seen.add(question.question)
        yield question
