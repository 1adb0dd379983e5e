"""stages=[judge]: find the systems, pair their answers, ask a judge and keep its verdicts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qlora_repro.config.registry import JUDGES, import_function
from qlora_repro.config.schema import JudgeConfig, RunConfig
from qlora_repro.console import say
from qlora_repro.data.questions import Question, load_questions
from qlora_repro.errors import ConfigError
from qlora_repro.judge.matches import (
    Matchup,
    System,
    build_matchup,
    find_run,
    find_system,
    load_run_system,
)
from qlora_repro.judge.other_judges import find_released_system
from qlora_repro.judge.protocol import check_settings, read_api_key
from qlora_repro.judge.win_rates import WinRate, compute_win_rate
from qlora_repro.records import Judgment, Match
from qlora_repro.reporting.stored_result import SKIPPED
from qlora_repro.session import CellRun
from qlora_repro.store.cell import Cell
from qlora_repro.store.run_id import deciding_settings, hashed_section
from qlora_repro.store.runs import RunFolder, open_store

BASE_OPPONENT = "base"  # the opponent that is this cell without training
REPLIES_FOLDER = "replies"  # where a judge keeps what it was told


def opponent_names(cfg: JudgeConfig) -> list[str]:
    """Return the opponents' names; one may be written without brackets."""
    names: list[str] = cfg.opponent if isinstance(cfg.opponent, list) else [cfg.opponent]
    return names


def compares_with_base(cfg: RunConfig) -> bool:
    """Whether the cell's own base is an opponent, and so must answer as well."""
    return (
        "judge" in cfg.stages
        and cfg.judge.run is None
        and BASE_OPPONENT in opponent_names(cfg.judge)
    )


def check_judge(cell: Cell) -> None:
    """Refuse a judge that lacks its key, before hours of training; ConfigError."""
    judge, missing = cell.cfg.judge, set(cell.missing_stages()) - {"judge"}
    if judge.kind == "openai" and missing:  # verdicts in the store need no key
        check_settings(judge)
        read_api_key(judge)


def run_judge(run: CellRun, *, tuned: bool) -> None:
    """Judge the run's answers, or those of judge.run; verdicts in the store are not asked again."""
    cell, cfg = run.cell, run.cell.cfg
    if tuned != cell.trains:
        return
    asks = cfg.generate.name != "none"
    answered = AnsweredRun(
        cell=cell,
        questions=load_questions(cfg.generate) if asks else [],
        settings=deciding_settings(cfg, "generate")["generate"] if asks else None,
    )
    run.win_rates = _judge_run(cfg.judge, answered)


@dataclass(frozen=True, kw_only=True)
class AnsweredRun:
    """The answers of the run that is under way."""

    cell: Cell  # whose answers are judged, unless judge.run names another run
    questions: Sequence[Question]  # of generate=NAME; for files, which hold answers only
    settings: Mapping[str, Any] | None  # of `generate`; of several answers, those given under these


def _judge_run(cfg: JudgeConfig, run: AnsweredRun) -> list[WinRate]:
    system, folder = _judged_system(cfg, run)
    matchups = [
        build_matchup(system, other, both_orders=cfg.both_orders, questions=run.questions)
        for other in (_opponent(name, cfg, run) for name in opponent_names(cfg))
    ]
    matches = [match for matchup in matchups for match in matchup.matches]
    decided_by = {"judge": hashed_section("judge", asdict(cfg))}
    digest = _judgments_digest(decided_by, matches)
    name, settings = f"judgments-{digest}.jsonl", f"settings-{digest}.json"
    # the run under way holds its own folder already
    with nullcontext() if folder.path == run.cell.folder.path else folder.locked(wait=True):
        if folder.has(name):
            say(f"verdicts: {SKIPPED}")
        else:
            say(f"judging {len(matches)} matches by {cfg.name}")
            rows = import_function(JUDGES[cfg.kind])(matches, cfg, folder.path / REPLIES_FOLDER)
            folder.write_json(settings, decided_by)
            folder.write_records(name, [_complete_judgment(row, matchups) for row in rows])
            say(f"verdicts are in {folder.path / name}")
        judgments = folder.read_records(name, Judgment)
    return [_win_rate(matchup, judgments) for matchup in matchups]


def _judged_system(cfg: JudgeConfig, run: AnsweredRun) -> tuple[System, RunFolder]:
    """Return the system whose answers are judged, and the folder that keeps the verdicts."""
    if cfg.run is None and cfg.kind != "replay":
        folder = run.cell.folder
        return load_run_system(folder, settings=run.settings), folder
    if cfg.run is None:
        raise ConfigError(
            "judge=replay knows the systems of the paper; add judge.run=guanaco-65b "
            "judge.opponent=vicuna-13b"
        )
    store = open_store(run.cell.cfg.results_dir)
    judged_folder = find_run(store.root, cfg.run)
    system = _find_system(cfg.run, cfg, run, key="judge.run")
    if judged_folder is not None and system.run:
        return system, judged_folder
    digest = hashlib.sha256(json.dumps(dict(system.answers)).encode()).hexdigest()[:12]
    return system, store.folder(system.name, digest)


def _opponent(name: str, cfg: JudgeConfig, run: AnsweredRun) -> System:
    if name != BASE_OPPONENT or cfg.kind == "replay":
        return _find_system(name, cfg, run, key="judge.opponent")
    if not run.cell.trains and cfg.run is None:
        raise ConfigError(
            "judge.opponent is base, and this run is untuned itself; name another run, as in "
            "judge.opponent=ID"
        )
    return load_run_system(run.cell.base, settings=run.settings)


def _find_system(name: str, cfg: JudgeConfig, run: AnsweredRun, *, key: str) -> System:
    if cfg.kind == "replay":
        return find_released_system(name, cfg, key=key)
    return find_system(Path(run.cell.cfg.results_dir), name, key=key, settings=run.settings)


def _judgments_digest(decided_by: Mapping[str, Any], matches: Sequence[Match]) -> str:
    """Return what names the verdicts: the judge's settings and every text that it is shown."""
    text = json.dumps([decided_by, [asdict(match) for match in matches]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _complete_judgment(row: Judgment, matchups: Sequence[Matchup]) -> Judgment:
    """Fill in what a judge does not know: which runs these are, and what was asked."""
    systems = [system for matchup in matchups for system in (matchup.system, matchup.opponent)]
    runs = {system.name: system.run for system in systems}
    return replace(
        row,
        benchmark=row.benchmark or matchups[0].benchmark,
        run_first=runs[row.first],
        run_second=runs[row.second],
    )


def _win_rate(matchup: Matchup, rows: Sequence[Judgment]) -> WinRate:
    names = matchup.system.name, matchup.opponent.name
    return compute_win_rate(
        [row for row in rows if {row.first, row.second} == set(names)],
        names=names,
        n_matches=len(matchup.matches),
        unanswered=matchup.unanswered,
        identical=matchup.identical,
    )
