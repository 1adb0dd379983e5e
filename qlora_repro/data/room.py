"""Prompts and answers within a model's positions: a long prompt leaves its answer less room."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qlora_repro.data import prompts
from qlora_repro.data.questions import Question
from qlora_repro.errors import DataError

LEAST_ROOM = 256  # tokens of an answer; for more room than this no question is cut


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question as the model reads it, and how long its answer may be."""

    source: str
    length: int  # tokens
    room: int  # new tokens at most
    cut: int  # characters that the question lost at its beginning


def fit_prompts(
    questions: Sequence[Question],
    tokenizer: Any,
    *,
    template: str,
    max_new_tokens: int,
    positions: int | None,
) -> list[Prompt]:
    """Return a prompt for each question, in order, that fits the model with an answer.

    positions: tokens that the model can tell apart, prompt and answer together; None: any number.
    Where `max_new_tokens` do not fit, the answer has what is left; where that would be less than
    LEAST_ROOM (or half of the positions), the question loses its beginning: the end of a
    conversation is what is asked. Raises DataError for a question that cannot be asked at all.
    """
    sources = [prompts.render(template, question.text) for question in questions]
    lengths = [len(ids) for ids in tokenizer(sources)["input_ids"]] if sources else []
    if positions is None:
        positions = max(lengths, default=0) + max_new_tokens
    least = min(max_new_tokens, LEAST_ROOM, positions // 2)
    fitted = []
    for question, source, length in zip(questions, sources, lengths, strict=True):
        cut = 0
        if length + least > positions:
            cut = _excess(question, tokenizer, template=template, most=positions - least)
            source = prompts.render(template, question.text[cut:])
            length = len(tokenizer(source)["input_ids"])
        room = min(max_new_tokens, positions - length)
        fitted.append(Prompt(source=source, length=length, room=room, cut=cut))
    return fitted


def _excess(question: Question, tokenizer: Any, *, template: str, most: int) -> int:
    """Return how many characters must go from the beginning for at most so many tokens."""
    text = question.text

    def fits(cut: int) -> bool:
        return len(tokenizer(prompts.render(template, text[cut:]))["input_ids"]) <= most

    cut = bisect_left(range(len(text)), True, key=fits)
    if cut == len(text):
        raise DataError(
            f"question {question.question_id} cannot be asked: with generate.template={template} "
            f"not even its end fits the {most} tokens that the model has for a prompt; leave the "
            "question out, or use a shorter template"
        )
    return cut


def describe_shortened(
    fitted: Sequence[Prompt], *, max_new_tokens: int, positions: int | None
) -> str | None:
    """Return a sentence on the answers that have less room than asked for; None: there is none.

    >>> rooms = [Prompt(source="", length=90, room=10, cut=0)] * 2
    >>> describe_shortened(rooms, max_new_tokens=20, positions=100)
    "2 of 2 prompts leave less than generate.max_new_tokens=20 of the model's 100 tokens; their \
answers may have 10 to 10"
    """
    short = [p.room for p in fitted if p.cut or p.room < max_new_tokens]
    if not short:
        return None
    cut = sum(prompt.cut > 0 for prompt in fitted)
    lose = f", and {cut} lose the beginning of the question" if cut else ""
    return (
        f"{len(short)} of {len(fitted)} prompts leave less than generate.max_new_tokens="
        f"{max_new_tokens} of the model's {positions} tokens; their answers may have {min(short)} "
        f"to {max(short)}{lose}"
    )
