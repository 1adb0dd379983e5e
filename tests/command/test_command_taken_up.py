"""A run that is stopped in the middle of training: killed, interrupted, started again."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from forking import fork
from running import Outcome, end, read_until, run_command, start, wait_for

pytestmark = pytest.mark.long

STEPS = 60
WORDS = [
    *("model=tiny", "eval=none", f"train.max_steps={STEPS}", "train.save_steps=4"),
    *("train.batch_size=8", "train.micro_batch_size=4"),
]


@dataclass(frozen=True)
class Stopped:
    """A run that was killed at a checkpoint, interrupted after it was taken up, then finished."""

    interrupted: Outcome
    left: list[str]  # names in the run's folder after Ctrl-C
    finished: Outcome


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    results = folder / "outputs" / "results"
    killed = fork(folder, *WORDS)
    wait_for(killed, lambda: any(results.glob("*/checkpoints/*/whole.json")))
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL
    process = start(folder, *WORDS)  # a new interpreter: nothing here stands in Ctrl-C's way
    read = read_until(process, "taken up at step")
    process.send_signal(signal.SIGINT)
    interrupted = end(process, folder, read=read)
    left = [path.name for path in interrupted.runs[0].iterdir()]
    finished = run_command(folder, *WORDS)
    return Stopped(interrupted=interrupted, left=left, finished=finished)


def test_a_killed_run_is_taken_up_at_its_checkpoint_and_says_so(stopped: Stopped) -> None:
    line = next(li for li in stopped.interrupted.out.splitlines() if "taken up" in li)
    step = int(line.split("taken up at step ")[1].split()[0])
    assert 0 < step < STEPS
    assert step % 4 == 0


def test_ctrl_c_stops_with_130_and_one_sentence(stopped: Stopped) -> None:
    assert stopped.interrupted.code == 130
    assert stopped.interrupted.err.startswith("error: interrupted; the same command goes on")
    assert stopped.interrupted.err.count("\n") == 1
    assert "checkpoints" in stopped.left
    assert "train.json" not in stopped.left
    assert "adapter" not in stopped.left


def test_a_run_that_was_stopped_twice_ends_with_the_bytes_of_one_that_was_not(
    stopped: Stopped, tmp_path: Path
) -> None:
    whole = run_command(tmp_path, *WORDS)
    assert (whole.code, whole.err) == (0, "")
    assert (stopped.finished.code, stopped.finished.err) == (0, "")
    assert "taken up at step" in stopped.finished.out
    assert stopped.finished.runs[0].name == whole.runs[0].name
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (stopped.finished.runs[0] / name).read_bytes() == (whole.runs[0] / name).read_bytes()
    steps = [(out.runs[0] / "steps.jsonl").read_text() for out in (whole, stopped.finished)]
    losses = [[json.loads(line)["loss"] for line in text.splitlines()] for text in steps]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
