"""From a judge's reply to a verdict: strictly as the paper's authors read it, and leniently.

Strict three_class reads the last line, which must be 1, 2 or 3 and nothing else. Strict score10
reads the first line, or else the last, which must hold two numbers from 1 to 10 and nothing else.
What that misses is read again by rules, each of which has a name that goes on record; a lenient
reading never replaces a strict one, it stands beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qlora_repro.judge.lenient import lenient_scores, lenient_verdict, refuses
from qlora_repro.judge.numbers import VERDICTS, Scores, scores, verdict_of

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
