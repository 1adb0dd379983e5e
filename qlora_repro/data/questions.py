"""Questions that answers are generated to, and prompts that fit the model with an answer.

Questions come from a file, or are held-out procedural ones.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_repro.config.schema import GenerateConfig
from qlora_repro.data import procedural, templates
from qlora_repro.data.rows import read_json_lines
from qlora_repro.errors import ConfigError, DataError

TEXT_KEYS = ("text", "question", "prompt")  # of a question file's lines, the first one found
OPTIONAL_KEYS = ("category", "lang", "reference")
PROCEDURAL = "procedural"  # the option that needs no file


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, without a prompt template around it, and what a judge may want of it."""

    question_id: str
    text: str
    category: str = ""  # "coding", "math"; empty where the file has none
    lang: str = ""
    reference: str = ""  # a right answer; empty where the file has none


def load_questions(cfg: GenerateConfig) -> list[Question]:
    """Return the questions of generate=NAME, at most `cfg.limit` of them.

    Raises ConfigError for procedural questions without a limit, DataError for a file that is none.
    """
    if cfg.name == PROCEDURAL:
        return draw_procedural_questions(cfg.limit, seed=cfg.seed)
    return read_questions(str(cfg.questions))[: cfg.limit]


def benchmark_name(cfg: GenerateConfig) -> str:
    """Return what the questions are called where verdicts are listed: "vicuna", or a file's stem.

    Options that stand for one set of questions give their own name; generate=local the
    file's.
    """
    return Path(str(cfg.questions)).stem if cfg.name == "local" else cfg.name


def draw_procedural_questions(limit: int | None, *, seed: int) -> list[Question]:
    """Return so many held-out procedural questions, their kinds in turn, with their answers.

    A longer list begins with a shorter one. None of them can be a training question.
    """
    if limit is None:
        raise ConfigError(
            "generate.limit is null, and generate=procedural needs a number of questions, such as "
            "generate.limit=80"
        )
    questions = procedural.draw_questions(None, limit, seed=seed, split="test")
    return [
        Question(
            question_id=f"{question.task}-{_hash_text(question.question)}",
            text=question.question,
            category=question.task,
            lang="en",
            reference=question.answer,
        )
        for question in questions
    ]


def _hash_text(text: str) -> str:
    """Return what tells one text from another, so that equal ids are equal questions."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_questions(path: str) -> list[Question]:
    """Read json lines with question_id and text (or question, or prompt); empty lines are skipped.

    `category`, `lang` and `reference`, a right answer, may stand beside them. The turn markers
    around the authors' OpenAssistant questions come off: the template puts them back. Raises
    DataError, with the line, for a file that is not like this.
    """
    rows = read_json_lines(
        Path(path).expanduser(),
        subject=f"generate.questions is {path}, which",
        instead="name a file of json lines",
    )
    parsed_rows = [_parse_question(row, where=where) for where, row in rows]
    if not parsed_rows:
        raise DataError(f"generate.questions is {path}, which holds no question")
    ids = [question.question_id for question in parsed_rows]
    if twice := sorted(name for name in set(ids) if ids.count(name) > 1):
        raise DataError(f"{path} has question_id {twice[0]!r} more than once; ids must differ")
    return parsed_rows


def _parse_question(row: Any, *, where: str) -> Question:
    if not isinstance(row, dict) or "question_id" not in row:
        raise DataError(f"{where} has no question_id; each line needs question_id and text")
    text = next((row[key] for key in TEXT_KEYS if key in row), None)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} has no text; each line needs one of {', '.join(TEXT_KEYS)}")
    return Question(
        question_id=str(row["question_id"]),
        text=text.strip().removeprefix("### Human:").removesuffix("### Assistant:").strip(),
        **{name: str(row[name]) for name in OPTIONAL_KEYS if row.get(name) is not None},
    )


MIN_ANSWER_TOKENS = 256  # tokens of an answer; for more room than this no question is cut


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
    sources = [templates.render_prompt(template, question.text) for question in questions]
    lengths = [len(ids) for ids in tokenizer(sources)["input_ids"]] if sources else []
    if positions is None:
        positions = max(lengths, default=0) + max_new_tokens
    least = min(max_new_tokens, MIN_ANSWER_TOKENS, positions // 2)
    fitted = []
    for question, source, length in zip(questions, sources, lengths, strict=True):
        cut = 0
        if length + least > positions:
            cut = _count_excess_characters(
                question, tokenizer, template=template, most=positions - least
            )
            source = templates.render_prompt(template, question.text[cut:])
            length = len(tokenizer(source)["input_ids"])
        room = min(max_new_tokens, positions - length)
        fitted.append(Prompt(source=source, length=length, room=room, cut=cut))
    return fitted


def _count_excess_characters(
    question: Question, tokenizer: Any, *, template: str, most: int
) -> int:
    """Return how many characters must go from the beginning for at most so many tokens."""
    text = question.text

    def fits(cut: int) -> bool:
        return len(tokenizer(templates.render_prompt(template, text[cut:]))["input_ids"]) <= most

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
