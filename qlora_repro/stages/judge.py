"""Judging as the pipeline calls it: find the systems, pair them, ask a judge, keep its verdicts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.console import say
from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError
from qlora_repro.judge.matches import Pairing, System, find_run, find_system, pair, read_run
from qlora_repro.judge.openai import judge_openai
from qlora_repro.judge.other_judges import (
    judge_human,
    judge_reference,
    judge_replay,
    released_system,
)
from qlora_repro.judge.result_table import Standing
from qlora_repro.judge.win_rates import standing
from qlora_repro.records import Judgment, Match
from qlora_repro.store.run_id import section
from qlora_repro.store.runs import Folder, Store

Judge = Callable[[Sequence[Match], JudgeConfig, Path], list[Judgment]]
JUDGES: dict[str, Judge] = {
    "human": judge_human,
    "openai": judge_openai,
    "reference": judge_reference,
    "replay": judge_replay,
}
BASE = "base"  # the opponent that is this cell without training
REPLIES = "replies"  # where a judge keeps what it was told


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a judge may want of the run that is under way."""

    store: Store
    tuned: Folder  # the run whose answers are judged, unless judge.run names another
    base: Folder  # the same as `tuned` where nothing trains
    asked: Sequence[Question]  # of generate=NAME; for files, which hold answers only
    settings: Mapping[str, Any] | None  # of `generate`; of several answers, those given under these


def opponents(cfg: JudgeConfig) -> list[str]:
    """Return the opponents' names; one may be written without brackets."""
    named = cfg.opponent if isinstance(cfg.opponent, list) else [cfg.opponent]
    names = [str(name) for name in named if name is not None]
    if not names:
        raise ConfigError(
            "judge.opponent is empty; it is base, a run's id or a file of answers, or a list of "
            "these"
        )
    return names


def judge(cfg: JudgeConfig, case: Case) -> list[Standing]:
    """Return a standing an opponent; verdicts that the store has are not asked for again."""
    system, folder = _judged(cfg, case)
    pairings = [
        pair(system, other, both_orders=cfg.both_orders, asked=case.asked)
        for other in (_opponent(name, cfg, case) for name in opponents(cfg))
    ]
    matches = [match for pairing in pairings for match in pairing.matches]
    decided = {"judge": section("judge", asdict(cfg))}
    digest = _digest(decided, matches)
    name, settings = f"judgments-{digest}.jsonl", f"settings-{digest}.json"
    with _held(folder, case):
        if folder.has(name):
            say("verdicts: in the store, skipped")
        else:
            say(f"judging {len(matches)} matches by {cfg.name}")
            rows = JUDGES[cfg.kind](matches, cfg, folder.path / REPLIES)
            folder.write_json(settings, decided)
            folder.write(name, [_whole(row, pairings) for row in rows])
            say(f"verdicts lie in {folder.path / name}")
        kept = folder.read(name, Judgment)
    return [_standing(pairing, kept) for pairing in pairings]


def _held(folder: Folder, case: Case) -> AbstractContextManager[None]:
    """Hold the folder that keeps the verdicts, unless the run under way holds it already."""
    return nullcontext() if folder.path == case.tuned.path else folder.locked(wait=True)


def _judged(cfg: JudgeConfig, case: Case) -> tuple[System, Folder]:
    """Return the system whose answers are judged, and the folder that keeps the verdicts."""
    if cfg.run is None and cfg.kind != "replay":
        return read_run(case.tuned, settings=case.settings), case.tuned
    if cfg.run is None:
        raise ConfigError(
            "judge=replay knows the systems of the paper; add judge.run=guanaco-65b "
            "judge.opponent=vicuna-13b"
        )
    run = find_run(case.store.root, cfg.run)
    system = _find(cfg.run, cfg, case, key="judge.run")
    if run is not None and system.run:
        return system, run
    digest = hashlib.sha256(json.dumps(dict(system.answers)).encode()).hexdigest()[:12]
    return system, case.store.folder(system.name, digest)


def _opponent(name: str, cfg: JudgeConfig, case: Case) -> System:
    if name != BASE or cfg.kind == "replay":
        return _find(name, cfg, case, key="judge.opponent")
    if case.base.path == case.tuned.path and cfg.run is None:
        raise ConfigError(
            "judge.opponent is base, and this run is untuned itself; name another run, as in "
            "judge.opponent=ID"
        )
    return read_run(case.base, settings=case.settings)


def _find(name: str, cfg: JudgeConfig, case: Case, *, key: str) -> System:
    if cfg.kind == "replay":
        return released_system(name, cfg, key=key)
    return find_system(case.store.root, name, key=key, settings=case.settings)


def _digest(decided: Mapping[str, Any], matches: Sequence[Match]) -> str:
    """Return what names the verdicts: the judge's settings and every text that it is shown."""
    text = json.dumps([decided, [asdict(match) for match in matches]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _whole(row: Judgment, pairings: Sequence[Pairing]) -> Judgment:
    """Fill in what a judge does not know: which runs these are, and what was asked."""
    systems = [system for pairing in pairings for system in (pairing.system, pairing.opponent)]
    runs = {system.name: system.run for system in systems}
    return replace(
        row,
        benchmark=row.benchmark or pairings[0].benchmark,
        run_first=runs[row.first],
        run_second=runs[row.second],
    )


def _standing(pairing: Pairing, rows: Sequence[Judgment]) -> Standing:
    names = pairing.system.name, pairing.opponent.name
    return standing(
        [row for row in rows if {row.first, row.second} == set(names)],
        names=names,
        shown=len(pairing.matches),
        unanswered=pairing.unanswered,
        identical=pairing.identical,
    )
