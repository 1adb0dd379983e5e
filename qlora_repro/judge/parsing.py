"""What a verdict and a pair of scores are made of, wherever they are read.

Rules that find a verdict or scores in a reply of the wrong form; the first that fits counts.

They look at the end of a reply, where judges conclude, and prefer to find nothing over guessing.

From a judge's reply to a verdict: strictly as the paper's authors read it, and leniently.

Strict three_class reads the last line, which must be 1, 2 or 3 and nothing else. Strict score10
reads the first line, or else the last, which must hold two numbers from 1 to 10 and nothing else.
What that misses is read again by rules, each of which has a name that goes on record; a lenient
reading never replaces a strict one, it stands beside it.

Replies in JSON, asked for by a schema; a reply that is none is read as text, leniently.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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


NAMES = {"1": "first", "2": "second"}
ASSISTANT = (  # as judges write it in the languages of the OpenAssistant prompts
    r"(?:assistants?|asistentes?|ass?istente?|assistenten?|ассистент\w*|помощник\w*|助手|助理)"
)
ONE = re.compile(rf"{ASSISTANT}[\s\-#]*([12])(?!\d)", re.IGNORECASE)
# "Best answer: 2", "Mejor respuesta: 2"; a rating ("Assistant 2: 3") is something else
LABEL = re.compile(r"[:\uff1a]\s*\W*([123])\W*(?:\([^()]*\)\W*)?$")
RATING = re.compile(rf"{ASSISTANT}[\s\-#]*[12]\W*$", re.IGNORECASE)
BARE = re.compile(r"\W*([123])\W*")
CHOICE = (
    r"(?:choose|chose|choice|chosen|select\w*|pick|option|verdict|output|opt for|"
    r"elijo|elegir\w*|elección|opci[oó]n|escolho|opção|choisi\w*|wähle|"
    r"выбира\w*|выбор\w*|вариант\w*|选择|選擇)"
)
SAYS_NUMBER = re.compile(
    rf"{CHOICE}\W*(?:(?:number|option|answer|the|is|número|la|opción|ответ|вариант)\W*)*"
    r"([123])(?![\d.]*\s*/|\d|\.\d)",
    re.IGNORECASE,
)
PREFERS = re.compile(
    rf"{CHOICE}|\b(?:best|better|superior|prefer\w*|wins?|winner|stronger|"
    r"mejor\w*|superior\w*|melhor\w*|millor\w*|meilleure?s?|beste\w*|besser\w*|miglior\w*|"
    r"лучш\w*|най-добр\w*|найкращ\w*)\b|最佳|更好|最好|较好|更优",
    re.IGNORECASE,
)
THAN = re.compile(
    rf"{ONE.pattern}.{{0,80}}?\b(?:better|superior|more \w+)\b.{{0,40}}?\bthan\b.{{0,40}}?"
    rf"{ONE.pattern}",
    re.IGNORECASE,
)
EQUAL = re.compile(
    r"\b(?:are|as|is a|a) (?:equivalent|equally|equal|tie)\b|\btie\b|equivalent", re.IGNORECASE
)
REFUSES = re.compile(
    r"(?:cannot|can't|can not|unable to|not possible to) (?:choose|select|pick|determine|rate|"
    r"judge|provide a (?:proper )?(?:rating|evaluation|verdict))|choose neither|choose none",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
TUPLE = re.compile(
    rf"(?:|.*\b(?:output|tuple|scores?)\b[\w\s]{{0,20}}[:=]?)\W*"
    rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)(?:\W*|\..*)",
    re.IGNORECASE,
)
GIVEN = re.compile(
    rf"{ASSISTANT}\W*([12])[^.\n]{{0,40}}?\b(?:a score of|scores?|a rating of|gets?|receives?)\s+"
    rf"(?:of\s+)?(?:a\s+)?{NUMBER}(?![\d.]*\w)",
    re.IGNORECASE,
)


def _labelled(number: str) -> re.Pattern[str]:
    """Return the pattern of a line such as "Assistant 1: 8/10 (clear)", and not "1: 3x"."""
    ends = r"(?=\s*(?:/\s*10\b|out of 10\b|points?\b|[()\-\u2013,;]|\*|$))"
    return re.compile(
        rf"{ASSISTANT}[\s\-#]*{number}(?:'s)?\**\s*(?:\w+\s*)?[:=]\s*\**\s*{NUMBER}{ends}",
        re.IGNORECASE | re.MULTILINE,
    )


LABELLED = (_labelled("1"), _labelled("2"))


def lenient_verdict(reply: str) -> tuple[str | None, str]:
    r"""Return (verdict, the rule that found it), or (None, "").

    >>> lenient_verdict("Good.\n\nBest answer: 2")
    ('second', 'label_colon_number')
    >>> lenient_verdict("Both miss the point. Therefore, I choose option 3, as both are wrong.")
    ('tie', 'says_number')
    >>> lenient_verdict("Detailed.\nThe best answer is the answer of Assistant 1.")
    ('first', 'names_one_assistant')
    >>> lenient_verdict("Assistant 1: 2\nAssistant 2: 3")
    (None, '')
    """
    last = reply.strip().rpartition("\n")[2].strip()
    if not last:
        return None, ""
    found = BARE.fullmatch(last)
    if found:
        return VERDICTS[found[1]], "decorated_number"
    found = LABEL.search(last)
    if found and not RATING.search(last[: found.start()]):
        return VERDICTS[found[1]], "label_colon_number"
    return _concluded(last)


def _concluded(last: str) -> tuple[str | None, str]:
    """Read the last paragraph's sentences, the last of them first."""
    for sentence in reversed([part for part in SENTENCE.split(last) if part.strip()]):
        numbers = set(SAYS_NUMBER.findall(sentence))
        if len(numbers) == 1:
            return VERDICTS[numbers.pop()], "says_number"
        found = THAN.search(sentence)
        if found and found[1] != found[2]:
            return NAMES[found[1]], "better_than"
        named = set(ONE.findall(sentence))
        if len(named) == 1 and PREFERS.search(sentence) and not refuses(sentence):
            return NAMES[named.pop()], "names_one_assistant"
    return None, ""


def refuses(reply: str) -> bool:
    """Whether a judge says that it will not choose, in its last paragraph or its first sentence.

    >>> refuses("Both are wrong. Therefore, I cannot choose between the two.")
    True
    >>> refuses("The answers are short.")
    False
    """
    return bool(REFUSES.search(reply.strip().rpartition("\n")[2]))


def lenient_scores(reply: str) -> tuple[Scores | None, str]:
    r"""Return (scores, the rule that found them), or (None, "").

    A tuple counts only on a line of its own, since a question may be about the point (10, 4).

    >>> lenient_scores("The distance from (2, -2) to (10, 4) is 10.\n\nOutput: (1, 10)")
    ((1.0, 10.0), 'tuple')
    >>> lenient_scores("Assistant 1: 1/10 (wrong)\nAssistant 2: 9/10 (right)\n\nSo 2 wins.")
    ((1.0, 9.0), 'labelled_scores')
    >>> lenient_scores("I would give Assistant 1 a score of 4 and Assistant 2 a score of 10.")
    ((4.0, 10.0), 'prose_scores')
    """
    for line in reversed(reply.strip().splitlines()):
        found = TUPLE.fullmatch(line.strip())
        pair = in_range(float(found[1]), float(found[2])) if found else None
        if pair:
            return pair, "tuple"
    labelled = [pattern.findall(reply) for pattern in LABELLED]
    if all(labelled):
        pair = in_range(float(labelled[0][-1]), float(labelled[1][-1]))
        if pair:
            return pair, "labelled_scores"
    given = dict(GIVEN.findall(reply))
    if len(given) == 2:
        pair = in_range(float(given["1"]), float(given["2"]))
        if pair:
            return pair, "prose_scores"
    return None, ""


API_ERROR = "error"  # the whole text of a review that the authors' program could not get


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reply says; the fields of a Judgment that come out of its text."""

    verdict: str | None = None
    score_first: float | None = None
    score_second: float | None = None
    parse: str
    verdict_lenient: str | None = None
    score_first_lenient: float | None = None
    score_second_lenient: float | None = None


def strict_verdict(reply: str) -> str | None:
    r"""Read the last line of a three_class reply.

    >>> strict_verdict("Both are fine, the second is shorter.\n2\n")
    'second'
    >>> strict_verdict("Best answer: 2") is None
    True
    """
    return VERDICTS.get(reply.strip().rpartition("\n")[2].strip())


def strict_scores(reply: str) -> Scores | None:
    r"""Read the two scores of a score10 reply; lines that contradict each other are none.

    >>> strict_scores("8 9.5\nThe second is more detailed.")
    (8.0, 9.5)
    >>> strict_scores("x = 4 is right.\n10, 2")
    (10.0, 2.0)
    >>> strict_scores("Scores: (10, 2)") is None
    True
    """
    lines = [line for line in reply.strip().splitlines() if line.strip()]
    if not lines:
        return None
    found = {scores(line) for line in (lines[0], lines[-1])} - {None}
    return found.pop() if len(found) == 1 else None


def read_three_class(reply: str) -> Reading:
    r"""Read a three_class reply both ways.

    >>> read_three_class("Fine.\n1").parse
    'ok'
    >>> found = read_three_class("Fine.\nBest answer: 3")
    >>> found.verdict, found.verdict_lenient, found.parse
    (None, 'tie', 'recovered:label_colon_number')
    """
    verdict = strict_verdict(reply)
    if verdict is not None:
        return Reading(verdict=verdict, verdict_lenient=verdict, parse="ok")
    verdict, rule = lenient_verdict(reply)
    if verdict is not None:
        return Reading(verdict_lenient=verdict, parse=f"recovered:{rule}")
    return Reading(parse=_why_not(reply))


def read_score10(reply: str) -> Reading:
    r"""Read a score10 reply both ways; the higher score wins.

    >>> found = read_score10("Output: (1, 8)")
    >>> found.verdict_lenient, found.score_second_lenient, found.parse
    ('second', 8.0, 'recovered:tuple')
    """
    pair = strict_scores(reply)
    if pair is not None:
        return scored(pair)
    pair, rule = lenient_scores(reply)
    if pair is None:
        return Reading(parse=_why_not(reply))
    return Reading(
        verdict_lenient=verdict_of(pair),
        score_first_lenient=pair[0],
        score_second_lenient=pair[1],
        parse=f"recovered:{rule}",
    )


def scored(pair: Scores) -> Reading:
    """Return the reading of two scores that were read strictly."""
    first, second = pair
    verdict = verdict_of(pair)
    return Reading(
        verdict=verdict,
        score_first=first,
        score_second=second,
        parse="ok",
        verdict_lenient=verdict,
        score_first_lenient=first,
        score_second_lenient=second,
    )


def _why_not(reply: str) -> str:
    """Return why a reply holds no verdict, as `parse` names it.

    >>> _why_not("error"), _why_not("I cannot choose between the two."), _why_not("")
    ('api_error', 'refused', 'unparsed')
    """
    if reply.strip() == API_ERROR:
        return "api_error"
    return "refused" if refuses(reply) else "unparsed"


PARSERS: Mapping[str, Callable[[str], Reading]] = {
    "three_class": read_three_class,
    "score10": read_score10,
}


OBJECT = re.compile(r"\{.*\}", re.DOTALL)


def read_structured(protocol: str, reply: str) -> Reading:
    r"""Read a reply that should be one JSON object with the protocol's fields.

    >>> read_structured("three_class", '{"explanation": "Clear.", "verdict": "2"}').verdict
    'second'
    >>> found = read_structured("score10", 'Here:\n```json\n{"score_1": 8, "score_2": 7}\n```')
    >>> found.verdict, found.verdict_lenient, found.parse
    (None, 'first', 'recovered:json_inside_text')
    >>> read_structured("score10", '{"score_1": 80, "score_2": 7}').parse
    'unparsed'
    """
    reading = _values(protocol, reply)
    if reading is not None:
        return reading
    if _object(reply) is not None:
        return Reading(parse="unparsed")  # JSON, but not by the schema: no sentence to be read
    inside = OBJECT.search(reply)
    reading = _values(protocol, inside[0]) if inside else None
    if reading is not None:
        return _lenient(reading, rule="json_inside_text")
    reading = PARSERS[protocol](reply)
    return _lenient(reading, rule="text") if reading.parse == "ok" else reading


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _values(protocol: str, text: str) -> Reading | None:
    value = _object(text)
    if value is None:
        return None
    if protocol == "three_class":
        verdict = VERDICTS.get(str(value.get("verdict")))
        return Reading(verdict=verdict, verdict_lenient=verdict, parse="ok") if verdict else None
    pair = _pair(value)
    return scored(pair) if pair else None


def _pair(value: dict[str, Any]) -> Scores | None:
    pair = value.get("score_1"), value.get("score_2")
    if any(isinstance(score, bool) or not isinstance(score, int | float) for score in pair):
        return None
    return in_range(float(value["score_1"]), float(value["score_2"]))


def _lenient(reading: Reading, *, rule: str) -> Reading:
    """Return a reading that only the lenient reader has."""
    first, second = reading.score_first, reading.score_second
    verdict = reading.verdict
    if first is not None and second is not None:
        verdict = verdict_of((first, second))
    return Reading(
        verdict_lenient=verdict,
        score_first_lenient=first,
        score_second_lenient=second,
        parse=f"recovered:{rule}",
    )
