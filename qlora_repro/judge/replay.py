"""The replay judge: the verdicts that the paper's authors released, looked up (Section 5.3)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from qlora_repro.config_judge import JudgeConfig
from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError
from qlora_repro.judge.rows import from_frame
from qlora_repro.judge.systems import System, nearest
from qlora_repro.records import Judgment, Match
from qlora_repro.store.verdicts import released

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
