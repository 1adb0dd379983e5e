"""From a match and what a judge made of it to a row of the audit.

A frame of verdicts, as a csv or the released data hold them, as rows.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from qlora_repro.judge.parsing import Reading
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


def from_frame(frame: pd.DataFrame) -> Iterator[Judgment]:
    """Yield a frame of verdicts, as `store.verdicts` reads it, as rows; what is missing is None."""
    absent = {field.name: "" for field in fields(Judgment)}
    for row in frame.to_dict("records"):
        values: dict[str, Any] = {str(k): None if pd.isna(v) else v for k, v in row.items()}
        for name in ("chars_first", "chars_second"):
            values[name] = None if values[name] is None else int(values[name])
        yield Judgment(**(absent | values))
