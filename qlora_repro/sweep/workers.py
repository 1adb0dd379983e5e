"""A sweep in several processes: each worker's share of the machine, and workers that die.

Hydra's launchers end with an error when a worker is killed, and joblib then ends all the others.
Here the same sweep is launched again: what is finished is in the store and is skipped. A cell whose
process died is left out then and runs last, alone, so that it cannot take others with it.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from qlora_repro.config.paths import RUN, config_dir_flags
from qlora_repro.config.resolvers import visible_gpus
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, print_error, say, use_plain_lines
from qlora_repro.errors import QloraError
from qlora_repro.records import CellState
from qlora_repro.store.cell import find_cell
from qlora_repro.store.lock import LEASE_SECONDS, is_alive
from qlora_repro.store.runs import read_failure
from qlora_repro.sweep import cells
from qlora_repro.sweep.cells import CellRecord

IN_PROCESS = "basic"  # Hydra's launcher of cells in turn, in one process
PARENT_POLL_SECONDS = 1.0
REAP_SECONDS = 10.0  # to wait for the ends of workers that were killed


class WorkerRecovery(Callback):
    """Knows, in the process that launches, what was launched; ends with the cells that died."""

    folder: ClassVar[Path | None] = None  # of a sweep in several processes
    launcher: ClassVar[str] = IN_PROCESS
    why: ClassVar[str] = ""  # the launcher's error when it gave up

    def __init__(self, native_dtype: Mapping[str, str]) -> None:
        """Take the arithmetic of each device, which Hydra resolved here for all cells of a sweep.

        OmegaConf keeps what was resolved with the configuration that the cells are composed from.
        """
        self.native_dtype = native_dtype

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the sweep; say where its workers can be watched."""
        launcher = str(config.hydra.runtime.choices["hydra/launcher"])
        if launcher == IN_PROCESS:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        relaunched = WorkerRecovery.folder is not None
        WorkerRecovery.folder = Path(str(config.hydra.sweep.dir))
        WorkerRecovery.launcher = launcher
        if not relaunched:
            results = str(config.results_dir)
            say(f"watch the workers: python -m analysis status watch --results {results}")
            _note_shared_gpus(launcher, config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Run the cells whose process died once more, alone, where this machine runs the cells."""
        if WorkerRecovery.folder is not None:
            for record in cells.read_records(WorkerRecovery.folder):
                cfg = record.run_config if record.state == CellState.PROCESS_DIED else None
                if cfg is not None:
                    _finish_dead_cell(record, cfg, folder=WorkerRecovery.folder)


def _note_shared_gpus(launcher: str, config: DictConfig) -> None:
    cards = visible_gpus()
    n_jobs = int(config.hydra.launcher.n_jobs) if launcher == "joblib" else 0
    workers = n_jobs if n_jobs >= 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)
    if cards and workers > len(cards):
        note(
            f"{workers} workers share {len(cards)} GPUs; hydra.launcher.n_jobs={len(cards)} gives "
            "each its own"
        )


class Launch:
    """Encloses a launch of the command; `done` unless it is to be launched once more.

    While workers die, the command's arguments are set so that the next launch takes up their sweep.
    """

    def __init__(self) -> None:
        self.done = False
        self.states: list[tuple[int, str]] = []  # of the cells after the launch before

    def __enter__(self) -> None:
        self.done = True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Mark the cells whose process died; return whether the launch failed through them."""
        expected = (QloraError, HydraException, OmegaConfBaseException)
        folder = WorkerRecovery.folder
        if folder is None or not isinstance(error, Exception) or isinstance(error, expected):
            return False
        message = str(error).strip().partition("\n")[0]
        WorkerRecovery.why = f"{type(error).__name__}: {message}"[:300]
        before = self.states
        self.states = [(record.number, record.state) for record in mark_dead_cells(folder)]
        if self.states == before:
            return False  # nothing came of launching again
        note(f"a worker died ({WorkerRecovery.why}); the cells without a result are launched again")
        overrides = [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]
        sys.argv[1:] = [f"hydra.sweep.dir='{folder}'", *overrides]
        self.done = False
        return True


def mark_dead_cells(folder: Path) -> list[CellRecord]:
    """Return what came of each cell, once those whose process died are marked so."""
    deadline = time.monotonic() + REAP_SECONDS
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)  # a process that was killed seems to live until it is waited for
    for record in cells.read_records(folder):
        cfg = record.run_config if record.state == CellState.RUNNING else None
        if cfg is not None and _process_died(record, cfg, folder=folder):
            died = replace(record, state=CellState.PROCESS_DIED)
            cells.write_record(folder, died, name=cells.cell_identity(cfg))
    return cells.read_records(folder)


def _process_died(record: CellRecord, cfg: RunConfig, *, folder: Path) -> bool:
    """Whether a cell's process is gone. It may live without a lock yet: it imports for seconds."""
    if record.host == socket.gethostname():
        return not is_alive(record.pid)
    written = (
        cells.record_path(folder, record.number, name=cells.cell_identity(cfg)).stat().st_mtime
    )
    return time.time() - written > LEASE_SECONDS and find_cell(cfg).folder.held_by() is None


def _finish_dead_cell(record: CellRecord, cfg: RunConfig, *, folder: Path) -> None:
    """Run a cell in a process of its own, or, where workers are elsewhere, call it failed."""
    run_folder = find_cell(cfg).folder
    if not find_cell(cfg).missing_stages():
        state, why = CellState.DONE, ""
    elif WorkerRecovery.launcher == "joblib":
        say(f"\ncell {record.number + 1} again, alone, as its worker died: {record.label}")
        sys.stdout.flush()
        code = subprocess.run(
            [sys.executable, str(RUN), *config_dir_flags(), *record.overrides]
        ).returncode
        state, why = _outcome_of_process(code, cfg)
    else:
        state, why = CellState.FAILED, f"its worker died: {WorkerRecovery.why}"
    if why and read_failure(run_folder.path) is None:
        command = cells.format_command(record.overrides)
        run_folder.write_failure(state=state, reason=why, trace="", rerun=command)
    if why:
        print_error(f"{record.title}: {why}")
    cells.write_record(folder, replace(record, state=state, why=why), name=cells.cell_identity(cfg))


def _outcome_of_process(code: int, cfg: RunConfig) -> tuple[CellState, str]:
    if code == 0:
        return CellState.DONE, ""
    if code < 0:
        name = signal.Signals(-code).name
        return CellState.FAILED, (
            f"its process was ended by {name}, first among others and then alone; a system that "
            "runs out of memory does that"
        )
    failure = read_failure(find_cell(cfg).folder.path)
    if failure is None:
        return CellState.FAILED, f"it ended with exit code {code}"
    return failure["state"], failure["why"]


_parent_pid: list[int] = []  # of this worker
_gpu_locks: list[FileLock] = []  # of the GPU that this process has, until it ends


def _end_with_parent() -> None:
    """End this worker soon after its parent was killed, which loky would not do."""
    while os.getppid() == _parent_pid[0]:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)


def shut_down_workers() -> bool:
    """End joblib's workers; return whether there are any, whose semaphores are to be removed."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=True, kill_workers=True)
    return executor is not None


def set_up_worker(folder: Path) -> None:
    """Make this process the worker that a launcher wants: plain lines, its working directory, GPU.

    joblib gives each worker its share of the cores. Ray and Slurm give cores and GPUs themselves.
    """
    config = HydraConfig.get()
    launcher = config.runtime.choices["hydra/launcher"]
    main_process = multiprocessing.current_process().name == "MainProcess"
    if launcher == IN_PROCESS or (launcher == "joblib" and main_process):
        return
    use_plain_lines()  # bars of several processes would write over each other
    if Path(config.runtime.cwd).is_dir():
        os.chdir(config.runtime.cwd)
    if launcher == "joblib" and not _parent_pid:
        _parent_pid.append(os.getppid())
        Thread(target=_end_with_parent, daemon=True).start()
        _acquire_gpu(folder)


def _acquire_gpu(folder: Path) -> None:
    """Let torch see one GPU: the first that no other worker of this sweep took, in turn."""
    cards, number = visible_gpus(), 0
    while cards:
        lock = FileLock(folder.absolute() / f"worker-{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            number += 1
            continue
        _gpu_locks.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
        return
