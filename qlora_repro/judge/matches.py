"""Who takes part in a match: a run of the store, or a file of answers; found by its name.

Two systems' answers to the same questions, as the matches that a judge is shown.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_repro.data.local_files import json_lines
from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.records import Generation, Match
from qlora_repro.store.runs import Folder

ID = re.compile(r"[0-9a-f]{12}")
NUMBER = re.compile(r"-?(inf|[0-9]+([.][0-9]+)?(e[+-]?[0-9]+)?)")  # what is left of such an id
FEW = 4  # an error names no more
ID_KEYS = ("question_id", "message_id")  # of an answer file's lines, the first one found
# The authors' files keep the question in `text` beside `generation`, and the answer there without.
ANSWER_KEYS = ("answer", "generation_truncated", "generation", "text")


@dataclass(frozen=True, kw_only=True)
class System:
    """A system and what it answered."""

    name: str  # the run's folder, or the stem of the file: as verdicts name it
    run: str  # the run's id; empty for what is no run of the store
    answers: Mapping[str, str]  # question id -> answer, as it is shown
    asked: Mapping[str, Question]  # empty where only answers are at hand
    benchmark: str  # what the questions are called; empty where only answers are at hand


def find_run(root: Path, name: str) -> Folder | None:
    """Return the run of this id or folder name, or None."""
    if ID.fullmatch(name):
        found = sorted(path for path in root.glob(f"*-{name}") if path.is_dir())
    else:
        found = [root / name] if ID.fullmatch(name[-12:]) and (root / name).is_dir() else []
    return Folder(found[0], found[0].name[-12:]) if found else None


def find_system(
    root: Path, name: str, *, key: str, settings: Mapping[str, Any] | None = None
) -> System:
    """Return the run or the file of answers of this name.

    key: the setting that names it, for errors. settings: of `generate`; of a run that answered
    under several, the answers under these are taken. Raises ConfigError for a name that leads to
    nothing, DataError for a run without answers and for a file that is not one.
    """
    run = find_run(root, name)
    if run is not None:
        return read_run(run, settings=settings)
    path = Path(name).expanduser()
    if path.is_file():
        return read_answers(path)
    raise ConfigError(f"{key}={name} is neither a run of {root} nor a file; {_near(root, name)}")


def _near(root: Path, name: str) -> str:
    if NUMBER.fullmatch(name) and not ID.fullmatch(name):
        return "an id that YAML reads as a number has to stand in quotes, as in run: '30e123456789'"
    runs = sorted(path.name for path in root.glob("*-*") if ID.fullmatch(path.name[-12:]))
    ids = {run[-12:]: run for run in runs}
    close = difflib.get_close_matches(name, ids, n=1, cutoff=0.5)
    if close:
        return f"did you mean {ids[close[0]]}?"
    return nearest(name, runs) if runs else "it holds no run yet"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return what to offer instead of a name that is not known.

    >>> nearest("guanaco-56b", ["guanaco-65b", "bard"]), nearest("x", ["a", "b"])
    ('did you mean guanaco-65b?', 'there is a, b')
    """
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there is {', '.join(known[:FEW])}{', ...' if len(known) > FEW else ''}"


def read_run(folder: Folder, *, settings: Mapping[str, Any] | None = None) -> System:
    """Return a run as a system, with the answers that it gave under these settings.

    Answers given once only are taken as they are. Raises DataError where no answers are, or where
    there are several and nothing says which.
    """
    files = sorted(path.name for path in folder.path.glob("generations-*.jsonl"))
    if not files:
        raise DataError(
            f"{folder.path} has no answers; give the command that made it once more, with "
            "stages=[generate] and generate=procedural or another option"
        )
    alike = [name for name in files if settings and generate_settings(folder, name) == settings]
    if len(files) > 1 and not alike:
        raise DataError(
            f"{folder.path} has answers under {len(files)} settings of generate, and none of them "
            "are the ones asked for; write the generate=... settings of one of them"
        )
    return from_generations(folder, [*alike, *files][0])


def from_generations(folder: Folder, name: str) -> System:
    """Return a run as a system, with the answers of this file."""
    rows = folder.read(name, Generation)
    return System(
        name=folder.path.name,
        run=folder.run_id,
        answers={row.question_id: row.answer for row in rows},
        asked={row.question_id: _question(row) for row in rows},
        benchmark=rows[0].benchmark if rows else "",
    )


def _question(row: Generation) -> Question:
    return Question(
        question_id=row.question_id,
        text=row.question,
        category=row.category,
        lang=row.lang,
        reference=row.reference,
    )


def generate_settings(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return the settings of `generate` that a file of generations was made under, if known."""
    settings = name.replace("generations-", "settings-").replace(".jsonl", ".json")
    if not folder.has(settings):
        return None
    found: dict[str, Any] | None = folder.read_json(settings).get("generate")
    return found


def read_answers(path: Path) -> System:
    """Read a file of answers: json lines with question_id and answer.

    The generation files of the authors' release are read too. Raises DataError, with the line.
    """
    answers: dict[str, str] = {}
    rows = json_lines(path, subject=str(path), instead="name a file of json lines")
    for where, row in rows:
        question_id, answer = _answer(row, where=where)
        if question_id in answers:
            raise DataError(f"{where} answers {question_id!r} a second time")
        answers[question_id] = answer
    if not answers:
        raise DataError(f"{path} holds no answer; each line needs question_id and answer")
    return System(name=path.stem, run="", answers=answers, asked={}, benchmark="")


def _answer(row: Any, *, where: str) -> tuple[str, str]:
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object; each line needs question_id and answer")
    return str(_first(row, ID_KEYS, where=where)), str(_first(row, ANSWER_KEYS, where=where))


def _first(row: dict[str, Any], keys: Sequence[str], *, where: str) -> Any:
    found = next((row[key] for key in keys if row.get(key) is not None), None)
    if found is None:
        raise DataError(f"{where} has no {keys[0]}; each line needs question_id and answer")
    return found


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """One system against another, on every question that both answered."""

    system: System
    opponent: System
    benchmark: str
    matches: list[Match]  # the system first, then, in both orders, the opponent first
    prompts: int  # questions both answered
    unanswered: int  # questions that only one of them answered
    identical: int  # questions to which both gave the same answer, letter for letter


def pair(
    system: System, opponent: System, *, both_orders: bool, asked: Sequence[Question] = ()
) -> Pairing:
    """Return the matches of two systems, question by question.

    Where both systems know what was asked, equal ids with different texts are different questions.
    asked: the questions, for systems of which only answers are at hand. Raises ConfigError for a
    system against itself, DataError where no question is shared.
    """
    if system.name == opponent.name:
        raise ConfigError(
            f"{system.name} is judged against itself; judge.opponent must be another run or file"
        )
    known = {question.question_id: question for question in asked}
    texts = known | dict(opponent.asked) | dict(system.asked)
    either = {*system.answers, *opponent.answers}
    shared = [
        texts[name]
        for name in system.answers
        if name in opponent.answers and name in texts and _same(system, opponent, name)
    ]
    if not shared:
        raise DataError(_why_none(system, opponent, texts))
    there = [_match(system, opponent, question) for question in shared]
    back = [_match(opponent, system, question) for question in shared] if both_orders else []
    return Pairing(
        system=system,
        opponent=opponent,
        benchmark=system.benchmark or opponent.benchmark,
        matches=[*there, *back],
        prompts=len(shared),
        unanswered=len(either) - len(shared),
        identical=sum(match.answer_first == match.answer_second for match in there),
    )


def _same(system: System, opponent: System, name: str) -> bool:
    both = system.asked.get(name), opponent.asked.get(name)
    return None in both or both[0].text == both[1].text  # type: ignore[union-attr]


def _why_none(system: System, opponent: System, texts: Mapping[str, Question]) -> str:
    names = f"{system.name} and {opponent.name}"
    if not texts:
        return (
            f"neither of {names} says what was asked; add generate=local generate.questions=FILE, "
            "the questions of these answers"
        )
    return (
        f"{names} answered no question in common ({len(system.answers)} and "
        f"{len(opponent.answers)} answers); both need the same questions"
    )


def _match(first: System, second: System, question: Question) -> Match:
    return Match(
        question_id=question.question_id,
        question=question.text,
        category=question.category,
        lang=question.lang,
        first=first.name,
        second=second.name,
        answer_first=first.answers[question.question_id],
        answer_second=second.answers[question.question_id],
        reference=question.reference,
    )
