"""Workers of a parallel sweep, as the test of the real command finds and kills them."""

import os
import re
import signal
import subprocess
from pathlib import Path

from running import wait_for

from qlora_repro.store.progress import read_note
from qlora_repro.store.runs import Folder

SMALL = ["model=tiny", "eval=none", "data.rows=16", "lora.r=4"]


def at_work(folder: Path, *, since: float = 0.0) -> dict[int, str]:
    """Return the processes that train now, and have made a step since, each with its run's name."""
    found = {}
    for path in (folder / "outputs" / "results").glob("tiny-*"):
        held = Folder(path, "", lambda text: None).held_by() or ""
        process = re.match(r"process (\d+) on this machine", held)
        note = read_note(path / "progress.json") or {}
        if process and "step" in note and note["at"] > since:
            found[int(process[1])] = path.name
    return found


def kill_one(process: subprocess.Popen[str], folder: Path) -> str:
    """Wait until a worker trains and kill it; return the name of its run."""
    wait_for(process, lambda: bool(at_work(folder)))
    pid, name = next(iter(at_work(folder).items()))
    assert pid != process.pid
    os.kill(pid, signal.SIGKILL)
    return name
