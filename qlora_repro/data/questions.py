"""Questions that answers are generated to: a file of them, or held-out procedural ones."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_repro.config import GenerateConfig
from qlora_repro.data import procedural
from qlora_repro.data.json_lines import json_lines
from qlora_repro.errors import ConfigError, DataError

TEXT_KEYS = ("text", "question", "prompt")  # of a question file's lines, the first one found
PROCEDURAL = "procedural"  # the option that needs no file


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, without a prompt template around it, and what a judge may want of it."""

    question_id: str
    text: str
    category: str = ""  # "coding", "math"; empty where the file has none
    lang: str = ""
    reference: str = ""  # a right answer; empty where the file has none


def questions(cfg: GenerateConfig) -> list[Question]:
    """Return the questions of generate=NAME, at most `cfg.limit` of them.

    Raises ConfigError for procedural questions without a limit, DataError for a file that is none.
    """
    if cfg.name == PROCEDURAL:
        return drawn(cfg.limit, seed=cfg.seed)
    return read_questions(str(cfg.questions))[: cfg.limit]


def benchmark(cfg: GenerateConfig) -> str:
    """Return what the questions are called where verdicts are listed: "vicuna", or a file's stem.

    Options that stand for one set of questions give their own name; generate=local the
    file's.
    """
    return Path(str(cfg.questions)).stem if cfg.name == "local" else cfg.name


def drawn(limit: int | None, *, seed: int) -> list[Question]:
    """Return so many held-out procedural questions, their kinds in turn, with their answers.

    A longer list begins with a shorter one. None of them can be a training question.
    """
    if limit is None:
        raise ConfigError(
            "generate.limit is null, and generate=procedural needs a number of questions, such as "
            "generate.limit=80"
        )
    found = procedural.draw(None, limit, seed=seed, only="test")
    return [
        Question(
            question_id=f"{question.task}-{_digest(question.question)}",
            text=question.question,
            category=question.task,
            lang="en",
            reference=question.answer,
        )
        for question in found
    ]


def _digest(text: str) -> str:
    """Return what tells one text from another, so that equal ids are equal questions."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_questions(path: str) -> list[Question]:
    """Read json lines with question_id and text (or question, or prompt); empty lines are skipped.

    `category`, `lang` and `reference`, a right answer, may stand beside them. The turn markers
    around the authors' OpenAssistant questions come off: the template puts them back. Raises
    DataError, with the line, for a file that is not like this.
    """
    rows = json_lines(
        Path(path).expanduser(),
        subject=f"generate.questions is {path}, which",
        instead="name a file of json lines",
    )
    found = [_question(row, where=where) for where, row in rows]
    if not found:
        raise DataError(f"generate.questions is {path}, which holds no question")
    ids = [question.question_id for question in found]
    if twice := sorted(name for name in set(ids) if ids.count(name) > 1):
        raise DataError(f"{path} has question_id {twice[0]!r} more than once; ids must differ")
    return found


def _question(row: Any, *, where: str) -> Question:
    if not isinstance(row, dict) or "question_id" not in row:
        raise DataError(f"{where} has no question_id; each line needs question_id and text")
    text = next((row[key] for key in TEXT_KEYS if key in row), None)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} has no text; each line needs one of {', '.join(TEXT_KEYS)}")
    return Question(
        question_id=str(row["question_id"]),
        text=text.strip().removeprefix("### Human:").removesuffix("### Assistant:").strip(),
        **{name: _optional(row, name) for name in ("category", "lang", "reference")},
    )


def _optional(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)
