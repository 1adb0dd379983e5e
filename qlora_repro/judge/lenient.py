"""Rules that find a verdict or scores in a reply of the wrong form; the first that fits counts.

They look at the end of a reply, where judges conclude, and prefer to find nothing over guessing.
"""

import re

from qlora_repro.judge.numbers import NUMBER, VERDICTS, Scores, in_range

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
