"""python -m analysis status: what each run of a results folder is doing, from its files alone."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from qlora_repro.errors import StoreError
from qlora_repro.store.cell import TRAINED
from qlora_repro.store.progress import FAILED, PROGRESS, read_note
from qlora_repro.store.runs import Folder

STATES = ("running", "interrupted", "failed", "out of memory", "torn", "done")
UNTUNED = "-untuned-"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as it stands."""

    name: str
    state: str  # one of STATES
    what: str  # the stage, the reason, or what is there
    age: float  # s since anything changed
    speed: float | None  # s a training step
    left: float | None  # s of the stage, at the speed so far


def runs(root: Path) -> list[Run]:
    """Return every run of a results folder, what is going on first; StoreError without a folder."""
    if not root.is_dir():
        raise StoreError(f"--results {root} is not a folder; name one that runs are written to")
    now = time.time()
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = [look(path, now=now) for path in sorted(folders)]
    return sorted(found, key=lambda run: STATES.index(run.state))


def look(path: Path, *, now: float) -> Run:
    """Return how one run stands; `now` is this machine's clock, so ages of others are rough."""
    told: list[str] = []
    folder = Folder(path, "", told.append)
    here = [file.stat().st_mtime for file in path.iterdir()]
    age = max(0.0, now - max(here, default=now))
    progress, failure = read_note(path / PROGRESS), read_note(path / FAILED)
    owner = folder.held_by()
    if owner is not None:
        return _running(path, progress or {}, owner, now=now)
    if failure is not None:
        why = " ".join(str(failure.get("why", "")).split())
        return Run(name=path.name, state=failure["state"], what=why, age=age, speed=None, left=None)
    files = [file for pattern in ("*.json", "*.jsonl") for file in path.glob(pattern)]
    whole = [f for f in files if f.name in ("whole.json", PROGRESS) or folder.has(f.name)]
    left_off = progress is not None or (path / "checkpoints").is_dir()
    if len(whole) < len(files):
        state, what = "torn", told[0].removeprefix(f"{path}/")
    elif left_off or not _finished(path):
        state, what = "interrupted", f"in {(progress or {}).get('stage', 'training')}"
    else:
        state, what = "done", _there(path)
    return Run(name=path.name, state=state, what=what, age=age, speed=None, left=None)


def _finished(path: Path) -> bool:
    return UNTUNED in path.name or (path / TRAINED).exists() or any(path.glob("plan-*.jsonl"))


def _there(path: Path) -> str:
    kinds = [file.name.rpartition("-")[0] for file in path.glob("*-*.jsonl")]
    trained = ["trained"] if (path / TRAINED).exists() else []
    counted = [f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)) if kind != "answers"]
    return ", ".join([*trained, *counted]) or "nothing yet"


def _running(path: Path, note: dict[str, Any], owner: str, *, now: float) -> Run:
    step = f" step {note['step']}/{note['steps']}" if "step" in note else ""
    since = now - note["at"] if "at" in note else 0.0
    left = note.get("seconds_left")
    return Run(
        name=path.name,
        state="running",
        what=f"{note.get('stage', 'starting')}{step}, {owner}",
        age=max(0.0, since),
        speed=note.get("seconds_a_step"),
        left=None if left is None else max(0.0, left - since),
    )


def table(found: list[Run]) -> Table:
    """Return a row a run."""
    counts = {state: sum(run.state == state for run in found) for state in STATES}
    title = ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no runs yet"
    made = Table(title=title, title_justify="left")
    for name in ("run", "state"):
        made.add_column(name, overflow="fold")
    for name in ("changed", "a step", "left"):
        made.add_column(name, justify="right")
    made.add_column("what", overflow="fold")
    for run in found:
        speed = "-" if run.speed is None else f"{run.speed:.2f} s"
        left = "-" if run.left is None else duration(run.left)
        state = "OOM" if run.state == "out of memory" else run.state
        made.add_row(run.name, state, f"{duration(run.age)} ago", speed, left, run.what)
    return made


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would use.

    >>> duration(5.2), duration(400), duration(8000), duration(200_000)
    ('5 s', '7 min', '2.2 h', '2.3 d')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
