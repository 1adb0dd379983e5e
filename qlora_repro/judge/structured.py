"""Replies in JSON, asked for by a schema; a reply that is none is read as text, leniently."""

import json
import re
from typing import Any

from qlora_repro.judge.numbers import VERDICTS, Scores, in_range, verdict_of
from qlora_repro.judge.parse import PARSERS, Reading, scored

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
