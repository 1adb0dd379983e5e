"""Each worker's share of the machine, and what is made of one that died."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from qlora_repro.records import CellState
from qlora_repro.store.lock import LEASE_SECONDS
from qlora_repro.sweep import workers
from qlora_repro.sweep.cells import CellRecord, cell_identity, write_record


def test_the_gpus_of_a_worker_are_those_that_the_user_left_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8f2a")
    assert workers.visible_gpus() == ["3", "GPU-8f2a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workers.visible_gpus() == []


def test_workers_alive_at_once_see_one_gpu_each_and_a_dead_ones_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    held = [child(tmp_path) for _ in range(3)]
    assert [gpu for _, gpu in held] == ["4", "7", "4"]  # three workers on two GPUs take turns
    stop(held[1][0])
    again = child(tmp_path)
    assert again[1] == "7"
    for pid, _ in (held[0], held[2], again):
        stop(pid)


def child(folder: Path) -> tuple[int, str]:
    """Fork a worker that takes a GPU and lives on; return its process and what it sees."""
    sys.stdout.flush()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        workers._acquire_gpu(folder)
        os.write(write, os.environ["CUDA_VISIBLE_DEVICES"].encode())
        os.close(write)
        os.kill(os.getpid(), 19)  # stopped, and so alive, until it is killed
    os.close(write)
    with os.fdopen(read) as told:
        return pid, told.read()


def stop(pid: int) -> None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def launch(main: Callable[[], None]) -> None:
    """Launch as the command does."""
    launch = workers.Launch()
    while not launch.done:
        with launch:
            main()


def test_a_launcher_that_gives_up_without_a_cell_in_between_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.WorkerRecovery, "folder", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "-m"])
    calls = []

    def main() -> None:
        calls.append(list(sys.argv))
        raise RuntimeError("no cluster")

    with pytest.raises(RuntimeError, match="no cluster"):
        launch(main)
    assert len(calls) == 1


def test_a_cell_whose_process_lives_is_not_taken_for_dead_though_it_has_no_claim_yet(
    tmp_path: Path, configured: Any
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = time.time() - 2 * LEASE_SECONDS
    cells = [
        ({}, "running"),  # of this process
        ({"pid": gone.pid}, "ended"),
        ({"host": "node7"}, "running"),  # which cannot be asked, and may still import
        ({"host": "node8"}, "ended"),  # silent for longer than a claim is
    ]
    for number, (where, _) in enumerate(cells):
        cfg = configured("model=tiny", f"seed={number}", f"results_dir={tmp_path / 'results'}")
        record = CellRecord(
            number=number,
            overrides=[],
            state=CellState.RUNNING,
            why="",
            config=asdict(cfg),
            **where,
        )
        write_record(tmp_path, record, name=cell_identity(cfg))
        if where.get("host") == "node8":
            os.utime(tmp_path / f"{number:05}-{cell_identity(cfg)}.json", (old, old))
    found = [record.state for record in workers.mark_dead_cells(tmp_path)]
    assert found == [state for _, state in cells]


def test_an_error_outside_a_sweep_of_workers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.WorkerRecovery, "folder", None)

    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        launch(main)


def test_a_cell_that_ends_its_process_also_alone_has_failed_by_the_signal(configured: Any) -> None:
    state, why = workers._outcome_of_process(-9, configured("model=tiny"))
    assert state == "failed"
    assert why.startswith("its process was ended by SIGKILL, first among others and then alone")
