"""The human judge: votes from a csv of verdicts, as the annotation page writes it.

The reference judge: whose answer has more in common with the right one. No model, no order.

It is offline and deterministic, a stand-in for a judge that reads: it knows wording, not sense.

The replay judge: the verdicts that the paper's authors released, looked up (Section 5.3).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.console import note
from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.judge.judgments import Source, answer_id, from_frame, judgment
from qlora_repro.judge.matches import System, nearest
from qlora_repro.judge.parsing import Reading
from qlora_repro.records import Judgment, Match
from qlora_repro.store.verdicts import read_verdicts, released


def judge_human(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Return every vote on these matches; a person sees a pair in one order, so half have none.

    A vote on other answers than the ones shown here is left out, and said. Raises ConfigError when
    no vote is left, DataError for a file that is not one of verdicts.
    """
    votes = list(from_frame(read_verdicts(str(cfg.votes))))
    shown = {(match.question_id, match.first, match.second): match for match in matches}
    on_these = [vote for vote in votes if (vote.question, vote.first, vote.second) in shown]
    kept = [vote for vote in on_these if _same(vote, shown[vote.question, vote.first, vote.second])]
    if len(kept) < len(on_these):
        left_out = len(on_these) - len(kept)
        note(f"votes in {cfg.votes} that are on other answers are left out: {left_out}")
    if not kept:
        raise ConfigError(
            f"judge.votes={cfg.votes} has {len(votes)} votes, and none on these answers of "
            f"{' and '.join(sorted({match.first for match in matches}))}"
        )
    return kept


def _same(vote: Judgment, match: Match) -> bool:
    """Whether a vote is on the answers shown; a file without answer ids is taken at its word."""
    pairs = (
        (vote.answer_first, match.answer_first),
        (vote.answer_second, match.answer_second),
    )
    return all(said in ("", answer_id(text)) for said, text in pairs)


class Words:
    """Words and numbers of any script; a minus sign belongs to its number."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words in lower case.

        >>> Words().tokenize("Ответ: -3, not 3.")
        ['ответ', '-3', 'not', '3']
        """
        return re.findall(r"(?<!\w)-\d+|\w+", text.lower())


@cache
def scorer() -> Any:
    """Return the scorer; it is imported when first asked for, as that takes a second."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=Words())


def overlap(answer: str, reference: str) -> float:
    """Return RougeL, the F-measure of the longest common subsequence of words, in [0, 1].

    >>> overlap("It is 4", "4"), overlap("-4", "4")
    (0.5, 0.0)
    """
    return float(scorer().score(reference, answer)["rougeL"].fmeasure)


def verdict(first: str, second: str, reference: str, *, margin: float) -> str:
    """Return "first", "second" or "tie"; swapping the answers swaps the verdict.

    >>> verdict("4", "It is 5", "4", margin=0.05)
    'first'
    """
    lead = overlap(first, reference) - overlap(second, reference)
    if abs(lead) <= margin:
        return "tie"
    return "first" if lead > 0 else "second"


def judge_reference(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Judge every match whose question has a reference answer; the others get no row.

    Nothing is kept in `folder`. Raises DataError when no question has one.
    """
    usable = [match for match in matches if match.reference.strip()]
    if matches and not usable:
        raise DataError(
            "judge=reference compares with a right answer, and no question has one; use "
            "generate=procedural, or questions with a `reference` field"
        )
    source = Source(judge=cfg.name, protocol="three_class")
    rows = []
    for match in usable:
        found = verdict(match.answer_first, match.answer_second, match.reference, margin=cfg.margin)
        rows.append(
            judgment(match, source, Reading(verdict=found, verdict_lenient=found, parse="ok"))
        )
    return rows


FIELDS = ("benchmark", "protocol", "judge")


def judge_replay(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Return the released verdict of each match, by systems and question; without one, no row."""
    rows = {(row.question, row.first, row.second): row for row in from_frame(_released(cfg))}
    asked = ((match.question_id, match.first, match.second) for match in matches)
    found = [rows[key] for key in asked if key in rows]
    return [replace(row, judge=f"{cfg.model}, replayed") for row in found]


def released_system(name: str, cfg: JudgeConfig, *, key: str) -> System:
    """Return a system of the release; its answers are named by their ids, as no text is at hand.

    Raises ConfigError, with the nearest ones, for a name that the release does not have.
    """
    frame = _released(cfg)
    seen = sorted({*frame["first"], *frame["second"]})
    if name not in seen:
        raise ConfigError(
            f"{key}={name} is no system of the released {cfg.benchmark} verdicts of {cfg.model}; "
            f"{nearest(name, seen)}"
        )
    answers: dict[str, str] = {}
    asked: dict[str, Question] = {}
    for side in ("first", "second"):
        for row in frame[frame[side] == name].to_dict("records"):
            answers[row["question"]] = f"released answer {row[f'answer_{side}']}"
            asked[row["question"]] = Question(
                question_id=row["question"],
                text="",
                category=row["category"],
                lang=row["lang"],
            )
    return System(name=name, run="", answers=answers, asked=asked, benchmark=cfg.benchmark)


def _released(cfg: JudgeConfig) -> pd.DataFrame:
    """Return the rows of one judge on one benchmark under one protocol."""
    frame = released()
    for field, value in zip(FIELDS, (cfg.benchmark, cfg.protocol, cfg.model), strict=True):
        chosen = frame[frame[field] == value]
        if chosen.empty:
            name = "model" if field == "judge" else field
            there = ", ".join(sorted(frame[field].unique()))
            raise ConfigError(f"judge.{name} is {value!r}, and the released verdicts have {there}")
        frame = chosen
    return frame
