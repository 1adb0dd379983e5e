"""Systems and their answers, the matches between two of them, and the judgments of a match.

A system is a run of the store or a file of answers, found by its name. A match is a question with
two systems' answers; a judgment is the record of one verdict on it.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from qlora_repro.config.messages import nearest_names, suggest_names
from qlora_repro.data.questions import Question
from qlora_repro.data.rows import read_json_lines
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.judge.parsing import ParsedReply
from qlora_repro.records import Generation, Judgment, Match
from qlora_repro.store.cell import check_run_folder
from qlora_repro.store.runs import RunFolder

RUN_ID = re.compile(r"[0-9a-f]{12}")
YAML_NUMBER = re.compile(r"-?(inf|[0-9]+([.][0-9]+)?(e[+-]?[0-9]+)?)")  # an id read as a number
QUESTION_ID_KEYS = ("question_id", "message_id")  # of an answer file's lines; the first one counts
# The authors' files keep the question in `text` beside `generation`, and the answer there without.
ANSWER_KEYS = ("answer", "generation_truncated", "generation", "text")


@dataclass(frozen=True, kw_only=True)
class System:
    """A system and what it answered."""

    name: str  # the run's folder, or the stem of the file: as verdicts name it
    run: str  # the run's id; empty for what is no run of the store
    answers: Mapping[str, str]  # question id -> answer, as a judge sees it
    questions: Mapping[str, Question]  # by id; empty where only answers are at hand
    benchmark: str  # name of the questions; empty where only answers are at hand


def find_run(root: Path, name: str) -> RunFolder | None:
    """Return the run of this id or folder name, or None; StoreError for another run's folder."""
    if RUN_ID.fullmatch(name):
        paths = sorted(path for path in root.glob(f"*-{name}") if path.is_dir())
    else:
        paths = [root / name] if RUN_ID.fullmatch(name[-12:]) and (root / name).is_dir() else []
    if not paths:
        return None
    check_run_folder(paths[0])
    return RunFolder(paths[0], paths[0].name[-12:])


def find_system(
    root: Path, name: str, *, key: str, settings: Mapping[str, Any] | None = None
) -> System:
    """Return the run or the file of answers of this name.

    Args:
        root: the folder of runs.
        name: a run's id or folder name, or a path.
        key: the setting that names it, for errors.
        settings: of `generate`; of a run that answered under several, these answers are taken.

    Raises:
        ConfigError: there is no such run or file.
        DataError: the run has no answers, or the file is not one of answers.
    """
    run = find_run(root, name)
    if run is not None:
        return load_run_system(run, settings=settings)
    path = Path(name).expanduser()
    if path.is_file():
        return load_file_system(path)
    hint = _suggest_run(root, name)
    raise ConfigError(f"{key}={name} is neither a run of {root} nor a file; {hint}")


def _suggest_run(root: Path, name: str) -> str:
    if YAML_NUMBER.fullmatch(name) and not RUN_ID.fullmatch(name):
        return "an id that YAML reads as a number has to stand in quotes, as in run: '30e123456789'"
    runs = sorted(path.name for path in root.glob("*-*") if RUN_ID.fullmatch(path.name[-12:]))
    by_id = {run[-12:]: run for run in runs}
    if close := nearest_names(name, by_id, cutoff=0.5):
        return f"did you mean {by_id[close[0]]}?"
    return suggest_names(name, runs) if runs else "it holds no run yet"


def load_run_system(folder: RunFolder, *, settings: Mapping[str, Any] | None = None) -> System:
    """Return a run as a system, with the answers that it gave under these settings of `generate`.

    Answers given once only are taken as they are.

    Raises:
        DataError: there are no answers, or several and nothing says which.
    """
    files = sorted(path.name for path in folder.path.glob("generations-*.jsonl"))
    if not files:
        raise DataError(
            f"{folder.path} has no answers; give the command that made it once more, with "
            "stages=[generate] and generate=procedural or another option"
        )
    same = [name for name in files if settings and _generate_settings(folder, name) == settings]
    if len(files) > 1 and not same:
        raise DataError(
            f"{folder.path} has answers under {len(files)} settings of generate, and none of them "
            "are the ones asked for; write the generate=... settings of one of them"
        )
    rows = folder.read_records([*same, *files][0], Generation)
    questions = {
        row.question_id: Question(
            question_id=row.question_id,
            text=row.question,
            category=row.category,
            lang=row.lang,
            reference=row.reference,
        )
        for row in rows
    }
    return System(
        name=folder.path.name,
        run=folder.run_id,
        answers={row.question_id: row.answer for row in rows},
        questions=questions,
        benchmark=rows[0].benchmark if rows else "",
    )


def _generate_settings(folder: RunFolder, generations: str) -> Any:
    """Return the settings of `generate` that a file was made under; None where they are unknown."""
    name = generations.replace("generations-", "settings-").replace(".jsonl", ".json")
    return folder.read_json(name).get("generate") if folder.has(name) else None


def load_file_system(path: Path) -> System:
    """Read a file of answers: json lines with question_id and answer; DataError, with the line.

    The generation files of the authors' release are read too.
    """
    answers: dict[str, str] = {}
    for where, row in read_json_lines(path, subject=str(path), instead="name a file of json lines"):
        if not isinstance(row, dict):
            raise DataError(f"{where} is not an object; each line needs question_id and answer")
        question_id = _first_value(row, QUESTION_ID_KEYS, where=where)
        answer = _first_value(row, ANSWER_KEYS, where=where)
        if question_id in answers:
            raise DataError(f"{where} answers {question_id!r} a second time")
        answers[question_id] = answer
    if not answers:
        raise DataError(f"{path} holds no answer; each line needs question_id and answer")
    return System(name=path.stem, run="", answers=answers, questions={}, benchmark="")


def _first_value(row: dict[str, Any], keys: Sequence[str], *, where: str) -> str:
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if value is None:
        raise DataError(f"{where} has no {keys[0]}; each line needs question_id and answer")
    return str(value)


@dataclass(frozen=True, kw_only=True)
class Matchup:
    """One system against another, on every question that both answered."""

    system: System
    opponent: System
    benchmark: str
    matches: list[Match]  # the system first, then, in both orders, the opponent first
    n_questions: int  # that both answered
    unanswered: int  # questions that only one of them answered
    identical: int  # questions to which both gave the same answer, letter for letter


def build_matchup(
    system: System, opponent: System, *, both_orders: bool, questions: Sequence[Question] = ()
) -> Matchup:
    """Return the matches of two systems, question by question.

    Where both systems know their questions, equal ids with different texts are different questions.

    Args:
        system: shown first.
        opponent: shown second.
        both_orders: show each pair a second time, the other way round.
        questions: for systems of which only answers are at hand.

    Raises:
        ConfigError: a system against itself.
        DataError: no question is shared.
    """
    if system.name == opponent.name:
        raise ConfigError(
            f"{system.name} is judged against itself; judge.opponent must be another run or file"
        )
    by_id = {question.question_id: question for question in questions}
    by_id |= {**opponent.questions, **system.questions}
    shared = [
        by_id[name]
        for name in system.answers
        if name in opponent.answers and name in by_id and _same_question(system, opponent, name)
    ]
    if not shared:
        raise DataError(_explain_no_match(system, opponent, has_questions=bool(by_id)))
    matches = [_build_match(system, opponent, question) for question in shared]
    swapped = [_build_match(opponent, system, question) for question in shared]
    return Matchup(
        system=system,
        opponent=opponent,
        benchmark=system.benchmark or opponent.benchmark,
        matches=matches + swapped if both_orders else matches,
        n_questions=len(shared),
        unanswered=len({*system.answers, *opponent.answers}) - len(shared),
        identical=sum(match.answer_first == match.answer_second for match in matches),
    )


def _same_question(system: System, opponent: System, question_id: str) -> bool:
    one, other = system.questions.get(question_id), opponent.questions.get(question_id)
    return one is None or other is None or one.text == other.text


def _explain_no_match(system: System, opponent: System, *, has_questions: bool) -> str:
    names = f"{system.name} and {opponent.name}"
    if not has_questions:
        return (
            f"neither of {names} says what was asked; add generate=local generate.questions=FILE, "
            "the questions of these answers"
        )
    return (
        f"{names} answered no question in common ({len(system.answers)} and "
        f"{len(opponent.answers)} answers); both need the same questions"
    )


def _build_match(first: System, second: System, question: Question) -> Match:
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


@dataclass(frozen=True, kw_only=True)
class VerdictSource:
    """Where a verdict comes from; empty texts where the judge has no such thing."""

    judge: str
    protocol: str
    prompt: str = ""  # general, coding or maths
    reply: str = ""  # the key of the stored reply
    model: str = ""  # as the server named it
    fingerprint: str = ""


def hash_answer(answer: str) -> str:
    """Return 16 hex digits that equal answers share, and others do not.

    >>> hash_answer("yes") == hash_answer("yes"), hash_answer("yes") == hash_answer("Yes")
    (True, False)
    """
    return hashlib.sha256(answer.encode()).hexdigest()[:16]


def build_judgment(match: Match, source: VerdictSource, reading: ParsedReply) -> Judgment:
    """Return one verdict's record; benchmark and run ids are left to who knows them."""
    return Judgment(
        benchmark="",
        question=match.question_id,
        category=match.category,
        lang=match.lang,
        first=match.first,
        second=match.second,
        answer_first=hash_answer(match.answer_first),
        answer_second=hash_answer(match.answer_second),
        chars_first=len(match.answer_first),
        chars_second=len(match.answer_second),
        run_first="",
        run_second="",
        **vars(source),
        **vars(reading),
    )


def judgments_from_frame(frame: pd.DataFrame) -> Iterator[Judgment]:
    """Yield a frame of verdicts, as `store.verdicts` reads it, as rows; what is missing is None."""
    absent = {field.name: "" for field in fields(Judgment)}
    for row in frame.to_dict("records"):
        values: dict[str, Any] = {str(k): None if pd.isna(v) else v for k, v in row.items()}
        for name in ("chars_first", "chars_second"):
            values[name] = None if values[name] is None else int(values[name])
        yield Judgment(**(absent | values))
