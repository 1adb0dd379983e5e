"""Who takes part in a match: a run of the store, or a file of answers; found by its name."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_repro.data.json_lines import json_lines
from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.records import Generation
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
