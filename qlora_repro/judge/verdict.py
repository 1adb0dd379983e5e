"""From a match and what a judge made of it to a row of the audit."""

import hashlib
from dataclasses import dataclass

from qlora_repro.judge.parse import Reading
from qlora_repro.records import Judgment, Match


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a verdict comes from; empty texts where the judge has no such thing."""

    judge: str
    protocol: str
    prompt: str = ""  # general, coding or maths
    reply: str = ""  # the key of the stored reply
    model: str = ""  # as the server named it
    fingerprint: str = ""


def answer_id(answer: str) -> str:
    """Return 16 hex digits that equal answers share, and others do not.

    >>> answer_id("yes") == answer_id("yes"), answer_id("yes") == answer_id("Yes")
    (True, False)
    """
    return hashlib.sha256(answer.encode()).hexdigest()[:16]


def judgment(match: Match, source: Source, reading: Reading) -> Judgment:
    """Return one verdict's record; benchmark and run ids are left to who knows them."""
    return Judgment(
        benchmark="",
        question=match.question_id,
        category=match.category,
        lang=match.lang,
        first=match.first,
        second=match.second,
        answer_first=answer_id(match.answer_first),
        answer_second=answer_id(match.answer_second),
        chars_first=len(match.answer_first),
        chars_second=len(match.answer_second),
        run_first="",
        run_second="",
        **vars(source),
        **vars(reading),
    )
