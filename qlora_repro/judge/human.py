"""The human judge: votes from a csv of verdicts, as the annotation page writes it."""

from collections.abc import Sequence
from pathlib import Path

from qlora_repro.config_judge import JudgeConfig
from qlora_repro.console import note
from qlora_repro.errors import ConfigError
from qlora_repro.judge.rows import from_frame
from qlora_repro.judge.verdict import answer_id
from qlora_repro.records import Judgment, Match
from qlora_repro.store.verdicts import read_verdicts


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
