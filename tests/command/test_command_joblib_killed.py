"""A sweep of two joblib workers, all of whose processes are killed at once, again and again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import RUN, environment
from test_command_killed import TWELVE, marks, trained
from workers import at_work

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra joblib is absent")

LONGER = [word.replace("max_steps=4", "max_steps=40") for word in TWELVE]
WORDS = [*LONGER, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def begin(folder: Path) -> subprocess.Popen[bytes]:
    """Start the sweep in a process group of its own, with what it says in a file."""
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(RUN), *WORDS],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def to_its_end(folder: Path) -> None:
    code = begin(folder).wait()
    assert code == 0, (folder / "output").read_text()[-2000:]


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill all processes of a sweep at once; False when it had ended before."""
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return alive


def wait_for_training(process: subprocess.Popen[bytes], folder: Path) -> None:
    began = time.time()
    while process.poll() is None and not at_work(folder, since=began):
        time.sleep(0.05)


@pytest.mark.slow
def test_twelve_cells_of_two_workers_killed_at_forty_random_moments_end_as_if_undisturbed(
    tmp_path: Path,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    to_its_end(whole)
    rng, done, kills, training = random.Random(0), dict[str, bytes](), 0, 0
    for place in range(40):
        process = begin(killed)
        if place % 2:  # while it starts: torch alone takes seconds
            time.sleep(rng.uniform(0, 8))
        else:
            wait_for_training(process, killed)
            training += process.poll() is None
            time.sleep(rng.uniform(0, 1))
        kills += kill(process)
        now = marks(killed)
        assert done.items() <= now.items()  # nothing is lost, nothing trained again
        done = now
    to_its_end(killed)
    assert kills >= 30
    assert training >= 5
    assert done.items() <= marks(killed).items()
    assert len(trained(whole)) == 12
    assert trained(killed) == trained(whole)
