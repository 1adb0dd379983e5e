"""A checkpoint that somebody deleted, a results folder that cannot be written."""

import shutil
import signal
import time
from os import kill
from pathlib import Path

import pytest
from forking import fork
from running import PATIENCE, run_command

WORDS = [
    *("model=tiny", "eval=none", "train.max_steps=6", "train.save_steps=2", "data.rows=16"),
    *("lora.r=4", "train.keep_checkpoints=3"),
]


def interrupted(folder: Path) -> Path:
    """Kill a run after two checkpoints; return the newer one."""
    folder.mkdir()
    run = fork(folder, *WORDS, "train.max_steps=400", "train.lr=0.001")
    pattern = "outputs/results/*/checkpoints/checkpoint-*/whole.json"
    ends = time.monotonic() + PATIENCE
    while len(found := list(folder.glob(pattern))) < 2:
        assert time.monotonic() < ends, run.output
        time.sleep(0.01)
    kill(run.pid, signal.SIGKILL)
    run.end()
    return max((mark.parent for mark in found), key=lambda path: int(path.name.split("-")[1]))


def test_a_deleted_or_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    newest = interrupted(tmp_path / "killed")
    folder = newest.parent
    for later in folder.glob("checkpoint-*"):
        if int(later.name.split("-")[1]) > int(newest.name.split("-")[1]):
            shutil.rmtree(later)
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = fork(tmp_path / "killed", *WORDS, "train.max_steps=400", "train.lr=0.001")
    ends = time.monotonic() + PATIENCE
    while "taken up at step" not in run.output:
        assert time.monotonic() < ends, run.output
        time.sleep(0.05)
    kill(run.pid, signal.SIGKILL)
    run.end()
    assert f"{newest.name} is corrupt: " in run.output
    step = int(run.output.split("taken up at step ")[1].split()[0])
    assert step < int(newest.name.split("-")[1])


@pytest.mark.parametrize("disk", ["ro,size=1m"], indirect=True)
def test_a_read_only_results_folder_is_refused_before_anything_is_loaded(
    disk: Path, tmp_path: Path
) -> None:
    sentence = run_command(tmp_path, *WORDS, "results_dir=disk/results").refusal()
    assert "results_dir=disk/results cannot be written: Read-only file system" in sentence
    assert list(disk.iterdir()) == []
