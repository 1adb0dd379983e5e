"""A sweep in several processes: each worker's share of the machine, and workers that die.

Hydra's launchers end with an error when a worker is killed, and joblib then ends all the others.
Here the same sweep is launched again: what is finished is in the store and is skipped. A cell whose
process died is kept out of it and comes last, alone, so that it cannot take others with it.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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

from qlora_repro.config.paths import RUN
from qlora_repro.config.resolvers import gpus
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, plain, say, sentence
from qlora_repro.errors import QloraError
from qlora_repro.store.cell import find_cell
from qlora_repro.store.lock import LEASE, runs
from qlora_repro.store.progress import FAILED as FAILURE
from qlora_repro.store.progress import read_note, write_failure
from qlora_repro.sweep.cells import (
    ENDED,
    RUNNING,
    Record,
    command_of,
    identity,
    keep,
    place,
    records,
)
from qlora_repro.sweep.run_cell import DONE, FAILED

ONE = "basic"  # Hydra's launcher of cells in turn, in one process
ORPHANED = 1.0  # s between looks at the parent
REAPED = 10.0  # s to wait for the ends of workers that were killed


class Workers(Callback):
    """Knows, in the process that launches, what was launched; ends with the cells that died."""

    folder: ClassVar[Path | None] = None  # of a sweep in several processes
    launcher: ClassVar[str] = ONE
    why: ClassVar[str] = ""  # what the launcher said when it gave up

    def __init__(self, native_dtype: Mapping[str, str]) -> None:
        """Take the arithmetic of each device, which Hydra resolved here for all cells of a sweep.

        OmegaConf keeps what was resolved with the configuration that the cells are composed from.
        """
        self.native_dtype = native_dtype

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the sweep; say where its workers can be watched."""
        launcher = str(config.hydra.runtime.choices["hydra/launcher"])
        if launcher == ONE:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        again = Workers.folder is not None
        Workers.folder, Workers.launcher = Path(str(config.hydra.sweep.dir)), launcher
        if not again:
            results = str(config.results_dir)
            say(f"watch the workers: python -m analysis status watch --results {results}")
            _say_shared(launcher, config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Run the cells whose process died once more, alone, where that is this machine's work."""
        if Workers.folder is not None:
            for record in records(Workers.folder):
                cfg = record.run_config if record.state == ENDED else None
                if cfg is not None:
                    _settled(record, cfg, folder=Workers.folder)


def _say_shared(launcher: str, config: DictConfig) -> None:
    there = gpus()
    n_jobs = int(config.hydra.launcher.n_jobs) if launcher == "joblib" else 0
    workers = n_jobs if n_jobs >= 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)
    if there and workers > len(there):
        note(
            f"{workers} workers share {len(there)} GPUs; hydra.launcher.n_jobs={len(there)} gives "
            "each its own"
        )


def launched(main: Callable[[], None]) -> None:
    """Run Hydra's main; while workers die, launch again what they left."""
    before: list[tuple[int, str]] = []
    while True:
        try:
            main()
            return
        except (QloraError, HydraException, OmegaConfBaseException):
            raise
        except Exception as error:
            if Workers.folder is None:
                raise
            told = str(error).strip().partition("\n")[0]
            Workers.why = f"{type(error).__name__}: {told}"[:300]
            now = [(record.number, record.state) for record in after_deaths(Workers.folder)]
            if now == before:
                raise  # nothing came of launching again
            before = now
            note(f"a worker died ({Workers.why}); the cells without a result are launched again")
            words = [w for w in sys.argv[1:] if not w.startswith("hydra.sweep.dir=")]
            sys.argv[1:] = [f"hydra.sweep.dir='{Workers.folder}'", *words]


def after_deaths(folder: Path) -> list[Record]:
    """Return what came of each cell, once those whose process died are marked so."""
    ends = time.monotonic() + REAPED
    while multiprocessing.active_children() and time.monotonic() < ends:
        time.sleep(0.05)  # a process that was killed seems to live until it is waited for
    for record in records(folder):
        cfg = record.run_config if record.state == RUNNING else None
        if cfg is not None and _died(record, cfg, folder=folder):
            keep(folder, replace(record, state=ENDED), name=identity(cfg))
    return records(folder)


def _died(record: Record, cfg: RunConfig, *, folder: Path) -> bool:
    """Whether a cell's process is gone. It may live without a claim yet: it imports for seconds."""
    if record.host == socket.gethostname():
        return not runs(record.pid)
    written = place(folder, record.number, name=identity(cfg)).stat().st_mtime
    return time.time() - written > LEASE and _folder(cfg).held_by() is None


def _folder(cfg: RunConfig) -> Any:
    return find_cell(cfg).folder


def _settled(record: Record, cfg: RunConfig, *, folder: Path) -> None:
    """Run a cell in a process of its own, or, where workers are elsewhere, call it failed."""
    if not find_cell(cfg).missing():
        state, why = DONE, ""
    elif Workers.launcher == "joblib":
        say(f"\ncell {record.number + 1} again, alone, as its worker died: {record.label}")
        sys.stdout.flush()
        code = subprocess.run([sys.executable, str(RUN), *record.words]).returncode
        state, why = _came_of(code, cfg)
    else:
        state, why = FAILED, f"its worker died: {Workers.why}"
    if why and read_note(_folder(cfg).path / FAILURE) is None:
        command = command_of(record.words)
        write_failure(_folder(cfg).path, state=state, why=why, trace="", rerun=command)
    if why:
        sentence(f"cell {record.number + 1} ({' '.join(record.words)}): {why}")
    keep(folder, replace(record, state=state, why=why), name=identity(cfg))


def _came_of(code: int, cfg: RunConfig) -> tuple[str, str]:
    if code == 0:
        return DONE, ""
    if code < 0:
        name = signal.Signals(-code).name
        return FAILED, (
            f"its process was ended by {name}, first among others and then alone; a system that "
            "runs out of memory does that"
        )
    found = read_note(_folder(cfg).path / FAILURE) or {}
    return str(found.get("state", FAILED)), str(found.get("why", f"it ended with exit code {code}"))


_settled_in: list[int] = []  # the parent of this worker
_share: list[FileLock] = []  # the GPU that this process has, until it ends


def _end_with_parent() -> None:
    """End this worker soon after its parent was killed, which loky would not do."""
    while os.getppid() == _settled_in[0]:
        time.sleep(ORPHANED)
    os._exit(1)


def let_go() -> bool:
    """End joblib's workers; return whether there are any, whose semaphores are to be removed."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=True, kill_workers=True)
    return executor is not None


def settle(folder: Path) -> None:
    """Make this process the worker that a launcher wants: plain lines, its working directory, GPU.

    joblib gives each worker its share of the cores. Ray and Slurm give cores and GPUs themselves.
    """
    config = HydraConfig.get()
    launcher = config.runtime.choices["hydra/launcher"]
    if launcher == ONE or (launcher == "joblib" and not _is_worker()):
        return
    plain()  # bars of several processes would write over each other
    if Path(config.runtime.cwd).is_dir():
        os.chdir(config.runtime.cwd)
    if launcher == "joblib" and not _settled_in:
        _settled_in.append(os.getppid())
        Thread(target=_end_with_parent, daemon=True).start()
        _take_gpu(folder)


def _is_worker() -> bool:
    return multiprocessing.current_process().name != "MainProcess"


def _take_gpu(folder: Path) -> None:
    """Let torch see one GPU: the first that no other worker of this sweep took, in turn."""
    there, place = gpus(), 0
    while there:
        lock = FileLock(folder.absolute() / f"worker-{place}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            place += 1
            continue
        _share.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = there[place % len(there)]
        return
