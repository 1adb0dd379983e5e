"""From a judge's reply to a verdict: strictly as the paper's authors read it, and leniently.

Strict three_class reads the last line, which must be 1, 2 or 3 and nothing else. Strict score10
reads the first line, or else the last, which must hold two numbers from 1 to 10 and nothing else.
What they miss is read again by lenient rules, whose names go on record; a lenient verdict stands
beside a strict one and never replaces it. Start at `PARSERS`; `parse_json_reply` reads JSON.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qlora_repro.records import MatchVerdict, ParseStatus

VERDICT_BY_NUMBER = {"1": MatchVerdict.FIRST, "2": MatchVerdict.SECOND, "3": MatchVerdict.TIE}
API_ERROR_TEXT = "error"  # the whole text of a review that the authors' program could not get
Scores = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ParsedReply:
    """What a reply says: the fields of a Judgment that come out of its text."""

    verdict: str | None = None
    score_first: float | None = None
    score_second: float | None = None
    parse: str
    verdict_lenient: str | None = None
    score_first_lenient: float | None = None
    score_second_lenient: float | None = None

    @classmethod
    def strict(cls, verdict: MatchVerdict, scores: Scores | None = None) -> "ParsedReply":
        """Return a reply that has the right form."""
        first, second = scores or (None, None)
        lenient = cls.lenient(verdict, scores, rule="")
        return replace(
            lenient, verdict=verdict, score_first=first, score_second=second, parse=ParseStatus.OK
        )

    @classmethod
    def lenient(
        cls, verdict: MatchVerdict, scores: Scores | None = None, *, rule: str
    ) -> "ParsedReply":
        """Return a reply that only a lenient rule can read."""
        first, second = scores or (None, None)
        return cls(
            parse=f"recovered:{rule}",
            verdict_lenient=verdict,
            score_first_lenient=first,
            score_second_lenient=second,
        )


def parse_three_class(reply: str) -> ParsedReply:
    r"""Read a three_class reply both ways.

    >>> print(parse_three_class("Fine.\n1").parse)
    ok
    >>> parsed = parse_three_class("Fine.\nBest answer: 3")
    >>> parsed.verdict, str(parsed.verdict_lenient), parsed.parse
    (None, 'tie', 'recovered:label_colon_number')
    """
    verdict = parse_verdict_strictly(reply)
    if verdict is not None:
        return ParsedReply.strict(verdict)
    verdict, rule = parse_verdict_leniently(reply)
    if verdict is not None:
        return ParsedReply.lenient(verdict, rule=rule)
    return ParsedReply(parse=explain_failure(reply))


def parse_score10(reply: str) -> ParsedReply:
    r"""Read a score10 reply both ways; the higher score wins.

    >>> parsed = parse_score10("Output: (1, 8)")
    >>> str(parsed.verdict_lenient), parsed.score_second_lenient, parsed.parse
    ('second', 8.0, 'recovered:tuple')
    """
    scores = parse_scores_strictly(reply)
    if scores is not None:
        return ParsedReply.strict(verdict_from_scores(scores), scores)
    scores, rule = parse_scores_leniently(reply)
    if scores is not None:
        return ParsedReply.lenient(verdict_from_scores(scores), scores, rule=rule)
    return ParsedReply(parse=explain_failure(reply))


PARSERS: Mapping[str, Callable[[str], ParsedReply]] = {
    "three_class": parse_three_class,
    "score10": parse_score10,
}


def explain_failure(reply: str) -> ParseStatus:
    """Return why a reply holds no verdict.

    >>> [str(explain_failure(reply)) for reply in ("error", "I cannot choose a winner.", "")]
    ['api_error', 'refused', 'unparsed']
    """
    if reply.strip() == API_ERROR_TEXT:
        return ParseStatus.API_ERROR
    return ParseStatus.REFUSED if is_refusal(reply) else ParseStatus.UNPARSED


def verdict_from_scores(scores: Scores) -> MatchVerdict:
    """Return who has the higher score.

    >>> print(verdict_from_scores((8.0, 7.0)), verdict_from_scores((7.0, 7.0)))
    first tie
    """
    first, second = scores
    if first == second:
        return MatchVerdict.TIE
    return MatchVerdict.FIRST if first > second else MatchVerdict.SECOND


# Strictly

SCORE = r"(\d{1,2}(?:\.\d+)?)"
SCORE_LINE = re.compile(rf"\s*{SCORE}\s*[\s,]\s*{SCORE}\s*")


def parse_verdict_strictly(reply: str) -> MatchVerdict | None:
    r"""Read the last line of a three_class reply.

    >>> print(parse_verdict_strictly("Both are fine, the second is shorter.\n2\n"))
    second
    >>> parse_verdict_strictly("Best answer: 2") is None
    True
    """
    return VERDICT_BY_NUMBER.get(_last_line(reply))


def parse_scores_strictly(reply: str) -> Scores | None:
    r"""Read the two scores of a score10 reply; lines that contradict each other are none.

    >>> parse_scores_strictly("8 9.5\nThe second is more detailed.")
    (8.0, 9.5)
    >>> parse_scores_strictly("x = 4 is right.\n10, 2")
    (10.0, 2.0)
    >>> parse_scores_strictly("Scores: (10, 2)") is None
    True
    """
    lines = [line for line in reply.strip().splitlines() if line.strip()]
    if not lines:
        return None
    scores = {parse_score_line(line) for line in (lines[0], lines[-1])} - {None}
    return scores.pop() if len(scores) == 1 else None


def parse_score_line(line: str) -> Scores | None:
    """Read a line that holds two scores, with blanks or a comma between, and nothing else.

    >>> parse_score_line("8 7.5"), parse_score_line("8, 7")
    ((8.0, 7.5), (8.0, 7.0))
    >>> parse_score_line("8 7 6"), parse_score_line("87")
    (None, None)
    """
    match = SCORE_LINE.fullmatch(line)
    return _scores_in_range(match[1], match[2]) if match else None


def _last_line(reply: str) -> str:
    return reply.strip().rpartition("\n")[2].strip()


def _scores_in_range(first: str | float, second: str | float) -> Scores | None:
    """Return two scores if both are scores out of ten, from 1."""
    scores = float(first), float(second)
    return scores if all(1 <= score <= 10 for score in scores) else None


# Leniently: rules that look at the end of a reply, where judges conclude, and prefer to find
# nothing over guessing; the first that fits counts

ASSISTANT = (  # as judges write it in the languages of the OpenAssistant prompts
    r"(?:assistants?|asistentes?|ass?istente?|assistenten?|ассистент\w*|помощник\w*|助手|助理)"
)
ASSISTANT_NUMBER = re.compile(rf"{ASSISTANT}[\s\-#]*([12])(?!\d)", re.IGNORECASE)
# "Best answer: 2", "Mejor respuesta: 2"; a rating ("Assistant 2: 3") is something else
LABELLED_NUMBER = re.compile(r"[:\uff1a]\s*\W*([123])\W*(?:\([^()]*\)\W*)?$")
RATED_ASSISTANT = re.compile(rf"{ASSISTANT}[\s\-#]*[12]\W*$", re.IGNORECASE)
DECORATED_NUMBER = re.compile(r"\W*([123])\W*")
CHOICE = (
    r"(?:choose|chose|choice|chosen|select\w*|pick|option|verdict|output|opt for|"
    r"elijo|elegir\w*|elección|opci[oó]n|escolho|opção|choisi\w*|wähle|"
    r"выбира\w*|выбор\w*|вариант\w*|选择|選擇)"
)
STATED_NUMBER = re.compile(
    rf"{CHOICE}\W*(?:(?:number|option|answer|the|is|número|la|opción|ответ|вариант)\W*)*"
    r"([123])(?![\d.]*\s*/|\d|\.\d)",
    re.IGNORECASE,
)
PREFERENCE = re.compile(
    rf"{CHOICE}|\b(?:best|better|superior|prefer\w*|wins?|winner|stronger|"
    r"mejor\w*|superior\w*|melhor\w*|millor\w*|meilleure?s?|beste\w*|besser\w*|miglior\w*|"
    r"лучш\w*|най-добр\w*|найкращ\w*)\b|最佳|更好|最好|较好|更优",
    re.IGNORECASE,
)
BETTER_THAN = re.compile(
    rf"{ASSISTANT_NUMBER.pattern}.{{0,80}}?\b(?:better|superior|more \w+)\b.{{0,40}}?\bthan\b"
    rf".{{0,40}}?{ASSISTANT_NUMBER.pattern}",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"(?:cannot|can't|can not|unable to|not possible to) (?:choose|select|pick|determine|rate|"
    r"judge|provide a (?:proper )?(?:rating|evaluation|verdict))|choose neither|choose none",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
SCORE_TUPLE = re.compile(
    rf"(?:|.*\b(?:output|tuple|scores?)\b[\w\s]{{0,20}}[:=]?)\W*"
    rf"\(\s*{SCORE}\s*,\s*{SCORE}\s*\)(?:\W*|\..*)",
    re.IGNORECASE,
)
PROSE_SCORE = re.compile(
    rf"{ASSISTANT}\W*([12])[^.\n]{{0,40}}?\b(?:a score of|scores?|a rating of|gets?|receives?)\s+"
    rf"(?:of\s+)?(?:a\s+)?{SCORE}(?![\d.]*\w)",
    re.IGNORECASE,
)


def _labelled_score(number: str) -> re.Pattern[str]:
    """Return the pattern of a line such as "Assistant 1: 8/10 (clear)", and not "1: 3x"."""
    ends = r"(?=\s*(?:/\s*10\b|out of 10\b|points?\b|[()\-\u2013,;]|\*|$))"
    return re.compile(
        rf"{ASSISTANT}[\s\-#]*{number}(?:'s)?\**\s*(?:\w+\s*)?[:=]\s*\**\s*{SCORE}{ends}",
        re.IGNORECASE | re.MULTILINE,
    )


LABELLED_SCORES = (_labelled_score("1"), _labelled_score("2"))


def parse_verdict_leniently(reply: str) -> tuple[MatchVerdict | None, str]:
    r"""Return (verdict, the rule that found it), or (None, "").

    >>> def verdict(reply): return str(parse_verdict_leniently(reply)[0])
    >>> verdict("Good.\n\nBest answer: 2")
    'second'
    >>> verdict("Both miss the point. Therefore, I choose option 3, as both are wrong.")
    'tie'
    >>> verdict("Detailed.\nThe best answer is the answer of Assistant 1.")
    'first'
    >>> parse_verdict_leniently("Assistant 1: 2\nAssistant 2: 3")
    (None, '')
    """
    line = _last_line(reply)
    if match := DECORATED_NUMBER.fullmatch(line):
        return VERDICT_BY_NUMBER[match[1]], "decorated_number"
    match = LABELLED_NUMBER.search(line)
    if match and not RATED_ASSISTANT.search(line[: match.start()]):
        return VERDICT_BY_NUMBER[match[1]], "label_colon_number"
    for sentence in reversed(SENTENCE_END.split(line)):
        numbers = set(STATED_NUMBER.findall(sentence))
        if len(numbers) == 1:
            return VERDICT_BY_NUMBER[numbers.pop()], "says_number"
        match = BETTER_THAN.search(sentence)
        if match and match[1] != match[2]:
            return VERDICT_BY_NUMBER[match[1]], "better_than"
        assistants = set(ASSISTANT_NUMBER.findall(sentence))
        if len(assistants) == 1 and PREFERENCE.search(sentence) and not is_refusal(sentence):
            return VERDICT_BY_NUMBER[assistants.pop()], "names_one_assistant"
    return None, ""


def is_refusal(reply: str) -> bool:
    """Whether a judge says in its last paragraph that it will not choose.

    >>> is_refusal("Both are wrong. Therefore, I cannot choose between the two.")
    True
    >>> is_refusal("The answers are short.")
    False
    """
    return bool(REFUSAL.search(_last_line(reply)))


def parse_scores_leniently(reply: str) -> tuple[Scores | None, str]:
    r"""Return (scores, the rule that found them), or (None, "").

    A tuple counts only on a line of its own, since a question may be about the point (10, 4).

    >>> parse_scores_leniently("The distance from (2, -2) to (10, 4) is 10.\n\nOutput: (1, 10)")
    ((1.0, 10.0), 'tuple')
    >>> parse_scores_leniently("Assistant 1: 1/10 (wrong)\nAssistant 2: 9/10 (right)\n\nSo 2 wins.")
    ((1.0, 9.0), 'labelled_scores')
    >>> parse_scores_leniently("I give Assistant 1 a score of 4 and Assistant 2 a score of 10.")
    ((4.0, 10.0), 'prose_scores')
    """
    for line in reversed(reply.strip().splitlines()):
        match = SCORE_TUPLE.fullmatch(line.strip())
        scores = _scores_in_range(match[1], match[2]) if match else None
        if scores:
            return scores, "tuple"
    first, second = (pattern.findall(reply) for pattern in LABELLED_SCORES)
    if first and second and (scores := _scores_in_range(first[-1], second[-1])):
        return scores, "labelled_scores"
    by_assistant = dict(PROSE_SCORE.findall(reply))
    if len(by_assistant) == 2:
        scores = _scores_in_range(by_assistant["1"], by_assistant["2"])
        if scores:
            return scores, "prose_scores"
    return None, ""


# JSON

JSON_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


def parse_json_reply(protocol: str, reply: str) -> ParsedReply:
    r"""Read a reply that should be one JSON object with the protocol's fields.

    A text that holds one, or holds a verdict, is read leniently.

    >>> print(parse_json_reply("three_class", '{"explanation": "Clear.", "verdict": "2"}').verdict)
    second
    >>> parsed = parse_json_reply("score10", 'Here:\n```json\n{"score_1": 8, "score_2": 7}\n```')
    >>> parsed.verdict, str(parsed.verdict_lenient), parsed.parse
    (None, 'first', 'recovered:json_inside_text')
    >>> print(parse_json_reply("score10", '{"score_1": 80, "score_2": 7}').parse)
    unparsed
    """
    values = _load_object(reply)
    if values is not None:
        outcome = _read_fields(protocol, values)
        # JSON that breaks the schema holds no sentence to be read
        return ParsedReply.strict(*outcome) if outcome else ParsedReply(parse=ParseStatus.UNPARSED)
    embedded = JSON_OBJECT.search(reply)
    outcome = _read_fields(protocol, _load_object(embedded[0]) or {}) if embedded else None
    if outcome:
        return ParsedReply.lenient(*outcome, rule="json_inside_text")
    parsed = PARSERS[protocol](reply)
    if parsed.verdict is None:
        return parsed
    scores = None
    if parsed.score_first is not None and parsed.score_second is not None:
        scores = parsed.score_first, parsed.score_second
    return ParsedReply.lenient(MatchVerdict(parsed.verdict), scores, rule="text")


def _load_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _read_fields(
    protocol: str, values: dict[str, Any]
) -> tuple[MatchVerdict, Scores | None] | None:
    """Return (verdict, scores); None where the fields are not those of the schema."""
    if protocol == "three_class":
        verdict = VERDICT_BY_NUMBER.get(str(values.get("verdict")))
        return (verdict, None) if verdict else None
    first, second = values.get("score_1"), values.get("score_2")
    for score in (first, second):
        if isinstance(score, bool) or not isinstance(score, int | float):
            return None
    scores = _scores_in_range(first, second)  # type: ignore[arg-type]
    return (verdict_from_scores(scores), scores) if scores else None
