"""What a run is doing now, and how it failed: for people and for `analysis status`, never a result.

`progress.json` is there while a process works on the run, and after one that was killed.
`failed.json` holds the reason and the traceback until the run is started again.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

PROGRESS = "progress.json"
FAILED = "failed.json"
FAILURES = ("failed", "out of memory")  # what `state` in failed.json can be


def write_progress(folder: Path, stage: str, **facts: Any) -> None:
    """Note the stage and how far it is; `at` is this machine's clock, `began` that of the stage."""
    before = read_note(folder / PROGRESS) or {}
    now = time.time()
    began = before["began"] if before.get("stage") == stage else now
    _write(folder / PROGRESS, {"stage": stage, "began": began, "at": now, **facts})


def write_failure(folder: Path, *, state: str, why: str, trace: str, rerun: str) -> None:
    """Note how a run failed; `rerun` is the command that runs it again."""
    at = time.strftime("%Y-%m-%d %H:%M:%S")
    note = {"state": state, "why": why, "at": at, "rerun": rerun, "traceback": trace.splitlines()}
    _write(folder / FAILED, note)


def read_note(path: Path) -> dict[str, Any] | None:
    """Return a note; None where there is none, or one that was cut off."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, note: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
