"""Judges that ask no server: people, a right answer, the released verdicts, a user's function.

All have the signature of `judge_openai`: matches, settings, and a folder that they leave alone.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from qlora_repro.config.messages import suggest_names
from qlora_repro.config.registry import import_function
from qlora_repro.config.schema import JudgeConfig
from qlora_repro.console import note
from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.judge.matches import (
    System,
    VerdictSource,
    build_judgment,
    hash_answer,
    judgments_from_frame,
)
from qlora_repro.judge.parsing import ParsedReply
from qlora_repro.records import Judgment, Match, MatchVerdict, ParseStatus
from qlora_repro.store.verdicts import load_released_verdicts, read_verdicts


def judge_human(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Return every vote on these matches; a person sees a pair in one order, so half have none.

    A vote on other answers than these is left out, with a note.

    Raises:
        ConfigError: no vote is on these answers.
        DataError: judge.votes is no file of verdicts.
    """
    votes = list(judgments_from_frame(read_verdicts(str(cfg.votes))))
    by_key = {(match.question_id, match.first, match.second): match for match in matches}
    keys = [(vote.question, vote.first, vote.second) for vote in votes]
    pairs = [(vote, by_key[key]) for vote, key in zip(votes, keys, strict=True) if key in by_key]
    valid = [vote for vote, match in pairs if _is_on_answers(vote, match)]
    if len(valid) < len(pairs):
        n_stale = len(pairs) - len(valid)
        note(f"votes in {cfg.votes} that are on other answers are left out: {n_stale}")
    if not valid:
        raise ConfigError(
            f"judge.votes={cfg.votes} has {len(votes)} votes, and none on these answers of "
            f"{' and '.join(sorted({match.first for match in matches}))}"
        )
    return valid


def _is_on_answers(vote: Judgment, match: Match) -> bool:
    """Whether a vote is on these answers; a file without answer ids is not questioned."""
    return vote.answer_first in ("", hash_answer(match.answer_first)) and (
        vote.answer_second in ("", hash_answer(match.answer_second))
    )


def judge_reference(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Judge by words in common with the reference answer; without one, no row.

    Offline and deterministic, a stand-in for a judge that reads: it knows wording, not sense.

    Raises:
        DataError: no question has a reference answer.
    """
    usable = [match for match in matches if match.reference.strip()]
    if matches and not usable:
        raise DataError(
            "judge=reference compares with a right answer, and no question has one; use "
            "generate=procedural, or questions with a `reference` field"
        )
    source = VerdictSource(judge=cfg.name, protocol="three_class")
    return [
        build_judgment(
            match,
            source,
            ParsedReply.strict(
                compare_with_reference(
                    match.answer_first, match.answer_second, match.reference, margin=cfg.margin
                )
            ),
        )
        for match in usable
    ]


def compare_with_reference(
    first: str, second: str, reference: str, *, margin: float
) -> MatchVerdict:
    """Return the verdict on two answers; swapping them swaps it.

    >>> print(compare_with_reference("4", "It is 5", "4", margin=0.05))
    first
    """
    difference = rouge_l(first, reference) - rouge_l(second, reference)
    if abs(difference) <= margin:
        return MatchVerdict.TIE
    return MatchVerdict.FIRST if difference > 0 else MatchVerdict.SECOND


def rouge_l(answer: str, reference: str) -> float:
    """Return RougeL, the F-measure of the longest common subsequence of words, in [0, 1].

    >>> rouge_l("It is 4", "4"), rouge_l("-4", "4")
    (0.5, 0.0)
    """
    return float(_load_rouge_scorer().score(reference, answer)["rougeL"].fmeasure)


@cache
def _load_rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # takes a second to import

    return RougeScorer(["rougeL"], tokenizer=WordTokenizer())


class WordTokenizer:
    """Splits a text into words and numbers of any script; a minus sign belongs to its number."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words in lower case.

        >>> WordTokenizer().tokenize("Ответ: -3, not 3.")
        ['ответ', '-3', 'not', '3']
        """
        return re.findall(r"(?<!\w)-\d+|\w+", text.lower())


def judge_by_function(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Judge every match by a function of the user's own, which is called with the match.

    It returns "first", "second" or "tie"; None, where it cannot tell, is counted.

    Raises:
        ConfigError: the function fails, or returns anything else.
    """
    source = VerdictSource(judge=cfg.name, protocol="three_class")
    compare = import_function(str(cfg.function))
    name = str(cfg.function).partition(" ")[0]
    judgments = []
    for match in matches:
        try:
            verdict = compare(match)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{name} failed on {match.question_id}: {reason}") from error
        if verdict not in (*MatchVerdict, None):
            raise ConfigError(f"{name} returned {verdict!r}, and must return first, second or tie")
        parsed = ParsedReply(parse=ParseStatus.UNPARSED)
        if verdict is not None:
            parsed = ParsedReply.strict(MatchVerdict(verdict))
        judgments.append(build_judgment(match, source, parsed))
    return judgments


def judge_replay(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Look up the verdicts that the paper's authors released (Section 5.3); without one, no row."""
    released_rows = judgments_from_frame(_select_released(cfg))
    by_key = {(row.question, row.first, row.second): row for row in released_rows}
    keys = ((match.question_id, match.first, match.second) for match in matches)
    return [replace(by_key[key], judge=f"{cfg.model}, replayed") for key in keys if key in by_key]


def find_released_system(name: str, cfg: JudgeConfig, *, key: str) -> System:
    """Return a system of the release; ids stand for its answers, as no text is at hand.

    Raises:
        ConfigError: the release has no such system; with the nearest ones.
    """
    frame = _select_released(cfg)
    names = sorted({*frame["first"], *frame["second"]})
    if name not in names:
        raise ConfigError(
            f"{key}={name} is no system of the released {cfg.benchmark} verdicts of {cfg.model}; "
            f"{suggest_names(name, names)}"
        )
    answers: dict[str, str] = {}
    questions: dict[str, Question] = {}
    for side in ("first", "second"):
        for row in frame[frame[side] == name].to_dict("records"):
            question_id = row["question"]
            answers[question_id] = f"released answer {row[f'answer_{side}']}"
            questions[question_id] = Question(
                question_id=question_id, text="", category=row["category"], lang=row["lang"]
            )
    return System(name=name, run="", answers=answers, questions=questions, benchmark=cfg.benchmark)


def _select_released(cfg: JudgeConfig) -> pd.DataFrame:
    """Return the rows of one judge on one benchmark under one protocol."""
    frame = load_released_verdicts()
    wanted = {"benchmark": cfg.benchmark, "protocol": cfg.protocol, "judge": cfg.model}
    for column, value in wanted.items():
        rows = frame[frame[column] == value]
        if rows.empty:
            setting = "model" if column == "judge" else column
            known = ", ".join(sorted(frame[column].unique()))
            raise ConfigError(
                f"judge.{setting} is {value!r}, and the released verdicts have {known}"
            )
        frame = rows
    return frame
