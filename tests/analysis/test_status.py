"""python -m analysis status: each state, made as a run would leave it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.status import list_statuses, read_status
from qlora_repro.store.runs import PROGRESS, RunFolder, open_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A results folder with a run in every state but running."""
    store = open_store(tmp_path)

    def trained(name: str) -> RunFolder:
        folder = store.folder(name, "0")
        folder.write_records("steps.jsonl", [])
        folder.write_json("train.json", {"steps": []})
        return folder

    trained("done")
    (trained("corrupt").path / "train.json").write_bytes(b"{")
    for name, state in (("failed", "failed"), ("large", "out of memory")):
        RunFolder(tmp_path / f"{name}-0", "").write_failure(
            state=state, reason="why\nso", trace="", rerun=""
        )
    RunFolder(tmp_path / "killed-0", "").write_progress("training", step=3, steps=10)
    return tmp_path


def test_every_state_is_told_from_the_files_alone(root: Path) -> None:
    assert {run.name.removesuffix("-0"): run.state for run in list_statuses(root)} == {
        "done": "done",
        "corrupt": "corrupt",
        "failed": "failed",
        "large": "out of memory",
        "killed": "interrupted",
    }
    detail = {run.name: run.detail for run in list_statuses(root)}
    assert detail["done-0"] == "trained"
    assert detail["failed-0"] == "why so"
    assert detail["corrupt-0"].startswith("train.json has 1 bytes, and ")
    assert detail["killed-0"] == "in training"


def test_a_running_run_shows_its_step_its_owner_and_the_time_that_is_left(tmp_path: Path) -> None:
    folder = open_store(tmp_path).folder("tiny", "0")
    with folder.locked():
        folder.write_progress("training", step=3, steps=10, seconds_a_step=2.0, seconds_left=14.0)
        now = time.time()
        (run,) = list_statuses(tmp_path)
        assert (run.state, run.seconds_a_step) == ("running", 2.0)
        assert run.detail == f"training step 3/10, process {os.getpid()} on this machine"
        assert run.seconds_left == pytest.approx(14, abs=1)
        later = read_status(folder.path, now=now + 10)
        assert later.seconds_left == pytest.approx(4, abs=1)
    assert not (folder.path / PROGRESS).exists()


def test_a_run_whose_process_was_killed_is_interrupted_and_can_be_claimed_at_once(
    tmp_path: Path,
) -> None:
    code = (
        "import os, signal, sys\n"
        "from qlora_repro.store.runs import open_store\n"
        "folder = open_store(sys.argv[1]).folder('tiny', '0')\n"
        "with folder.locked():\n"
        "    folder.write_progress('training', step=1, steps=2)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=path)
    assert done.returncode < 0
    assert [run.state for run in list_statuses(tmp_path)] == ["interrupted"]
    folder = open_store(tmp_path).folder("tiny", "0")
    assert folder.held_by() is None
    with folder.locked():
        assert [run.state for run in list_statuses(tmp_path)] == ["running"]


def test_the_command_counts_states_and_refuses_a_folder_that_is_not_there(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--results", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 interrupted, 1 failed, 1 out of memory, 1 corrupt, 1 done")
    assert "OOM" in out
    assert main(["status", "--results", str(root / "nothing")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert main(["status", "wach"]) == 1
    assert "did you mean watch?" in capsys.readouterr().err
