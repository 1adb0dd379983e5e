"""python -m analysis status: what each run of a results folder is doing, from its files alone."""

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.table import Table

from qlora_repro.errors import StoreError
from qlora_repro.store.cell import TRAINED, describe_other_run
from qlora_repro.store.runs import PROGRESS, RunFolder, read_failure, read_note

UNTUNED = "-untuned-"  # in a folder's name


class State(StrEnum):
    """What a run is doing, what is going on first."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    CORRUPT = "corrupt"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run as it stands."""

    name: str
    state: State
    detail: str  # the stage, the reason, or which records are there
    age: float  # s since anything changed
    seconds_a_step: float | None = None
    seconds_left: float | None = None  # of the stage, at the speed so far


def list_statuses(results: Path) -> list[RunStatus]:
    """Return every run of a results folder, what is going on first.

    Raises:
        StoreError: There is no such folder.
    """
    if not results.is_dir():
        raise StoreError(f"--results {results} is not a folder; name one that runs are written to")
    now, order = time.time(), list(State)
    folders = [path for path in results.iterdir() if path.is_dir() and path.name[0] != "."]
    statuses = [read_status(path, now=now) for path in sorted(folders)]
    return sorted(statuses, key=lambda status: order.index(status.state))


def read_status(path: Path, *, now: float) -> RunStatus:
    """Return how one run stands; `now` is this machine's clock, so ages of others are rough."""
    corrupt: list[str] = []
    folder = RunFolder(path, "", corrupt.append)
    age = max(0.0, now - max((file.stat().st_mtime for file in path.iterdir()), default=now))
    progress, failure = read_note(path / PROGRESS), read_failure(path)
    holder = folder.held_by()
    if holder is not None:
        return _running_status(path.name, progress or {}, holder, now=now)
    if failure is not None:
        state = State(failure["state"])
        return RunStatus(name=path.name, state=state, detail=failure["why"], age=age)
    for file in sorted([*path.glob("*.json"), *path.glob("*.jsonl")]):
        if file.name not in ("whole.json", PROGRESS):
            folder.has(file.name)  # which tells of a corrupt one
    if reason := describe_other_run(path):
        corrupt.insert(0, reason)
    if corrupt:
        state, detail = State.CORRUPT, corrupt[0].removeprefix(f"{path}/")
    elif progress is not None or (path / "checkpoints").is_dir() or not _is_finished(path):
        state, detail = State.INTERRUPTED, f"in {(progress or {}).get('stage', 'training')}"
    else:
        state, detail = State.DONE, _describe_records(path)
    return RunStatus(name=path.name, state=state, detail=detail, age=age)


def _is_finished(path: Path) -> bool:
    return UNTUNED in path.name or (path / TRAINED).exists() or any(path.glob("plan-*.jsonl"))


def _describe_records(path: Path) -> str:
    kinds = [file.name.rpartition("-")[0] for file in path.glob("*-*.jsonl")]
    trained = ["trained"] if (path / TRAINED).exists() else []
    counts = [f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)) if kind != "answers"]
    return ", ".join([*trained, *counts]) or "nothing yet"


def _running_status(name: str, note: dict[str, Any], holder: str, *, now: float) -> RunStatus:
    step = f" step {note['step']}/{note['steps']}" if "step" in note else ""
    age = max(0.0, now - note["at"]) if "at" in note else 0.0
    left = note.get("seconds_left")
    return RunStatus(
        name=name,
        state=State.RUNNING,
        detail=f"{note.get('stage', 'starting')}{step}, {holder}",
        age=age,
        seconds_a_step=note.get("seconds_a_step"),
        seconds_left=None if left is None else max(0.0, left - age),
    )


def build_status_table(statuses: list[RunStatus]) -> Table:
    """Return a row a run."""
    counts = {state: sum(status.state == state for status in statuses) for state in State}
    title = ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no runs yet"
    table = Table(title=title, title_justify="left")
    for name in ("run", "state"):
        table.add_column(name, overflow="fold")
    for name in ("changed", "a step", "left"):
        table.add_column(name, justify="right")
    table.add_column("what", overflow="fold")
    for status in statuses:
        speed, left = status.seconds_a_step, status.seconds_left
        table.add_row(
            status.name,
            "OOM" if status.state is State.OUT_OF_MEMORY else status.state,
            f"{format_duration(status.age)} ago",
            "-" if speed is None else f"{speed:.2f} s",
            "-" if left is None else format_duration(left),
            status.detail,
        )
    return table


def format_duration(seconds: float) -> str:
    """Return seconds in the unit that a person would use.

    >>> format_duration(5.2), format_duration(400), format_duration(8000), format_duration(200_000)
    ('5 s', '7 min', '2.2 h', '2.3 d')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
