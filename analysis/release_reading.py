"""What a released review says: the score that the authors published, and how it can be read.

Strict is the authors' own rule: the last line is 1, 2 or 3; the first line is two numbers. Where
that fails and there is a score all the same, people filled it in. What the strict rule cannot read
is read again with the lenient rules of our judge.
"""

from typing import Any

from qlora_repro.judge.lenient import lenient_scores, lenient_verdict, refuses
from qlora_repro.judge.numbers import VERDICTS, verdict_of

NONE = -1  # stands for no score in the release
API_ERROR = "error"  # the whole text of a review that the authors could not get


def read_review(review: dict[str, Any], protocol: str) -> dict[str, Any]:
    """Return the columns of a verdict that a review gives: scores, verdict, parse, lenient ones."""
    reading = _scores(review) if protocol == "score10" else _class(review)
    if reading["parse"] == "unread":
        reading["parse"] = _why_not(review["text"])
    return reading


def strict_scores(text: str) -> tuple[float, float] | None:
    r"""Read two numbers from the first line, as the authors' program does.

    >>> strict_scores("8, 9\nBoth"), strict_scores("8/10 9/10")
    ((8.0, 9.0), None)
    """
    try:
        first, second = (float(part) for part in text.split("\n")[0].replace(",", " ").split())
    except ValueError:
        return None
    return first, second


def strict_class(text: str) -> str | None:
    r"""Read the last line, as the authors' program does.

    >>> strict_class("Both are good.\n3 "), strict_class("Best: 1")
    ('tie', None)
    """
    return VERDICTS.get(text.strip().split("\n")[-1].strip())


def _scores(review: dict[str, Any]) -> dict[str, Any]:
    text, (first, second) = review["text"], review["score"]
    given = None if NONE in (first, second) else (float(first), float(second))
    pair, rule = strict_scores(text) if given else None, ""
    parse = "ok" if pair else "hand_filled"
    if pair is None:
        pair, rule = lenient_scores(text)
    if given is None:
        parse = f"recovered:{rule}" if pair else "unread"
    pair = pair or given
    return {
        "score_first": given and given[0],
        "score_second": given and given[1],
        "verdict": given and verdict_of(given),
        "parse": parse,
        "score_first_lenient": pair and pair[0],
        "score_second_lenient": pair and pair[1],
        "verdict_lenient": pair and verdict_of(pair),
    }


def _class(review: dict[str, Any]) -> dict[str, Any]:
    text = review["text"]
    given = None if review["score"] == NONE else VERDICTS[str(review["score"])]
    if given is not None:
        parse = "ok" if strict_class(text) else "hand_filled"
        return {"verdict": given, "verdict_lenient": given, "parse": parse}
    found, rule = lenient_verdict(text)
    parse = f"recovered:{rule}" if found else "unread"
    return {"verdict": None, "verdict_lenient": found, "parse": parse}


def _why_not(text: str) -> str:
    if text.strip() == API_ERROR:
        return "api_error"
    return "refused" if refuses(text) else "unparsed"
