"""The command where torchrun started several processes: rank 0 coordinates, the others work.

Torch is imported only where there are others.
"""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from qlora_repro.config.schema import rebuild_config
from qlora_repro.console import print_error
from qlora_repro.distributed.environment import world_size
from qlora_repro.errors import ConfigError
from qlora_repro.pipeline import get_stage_function
from qlora_repro.store.cell import find_cell
from qlora_repro.store.runs import Store
from qlora_repro.sweep.run_cell import describe_error

# Hydra's launcher that runs the cells in this process
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def run_worker() -> int:
    """Do the tasks that rank 0 sends, in silence, until there are no more; return the exit code.

    The first rank that fails prints the reason, whichever it is.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 decides what an interruption does
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever writes there, libraries too
    warnings.simplefilter("ignore")
    # slow: rank 0 imports at the same time
    from qlora_repro.distributed.process_group import (
        other_rank_failed,
        process_group,
        shared_failure,
    )

    try:
        while (task := process_group().next_task()) is not None:
            with shared_failure():
                _run_task(task)
    except Exception as error:  # noqa: BLE001  # rank 0 is told, and torchrun ends the others
        if not other_rank_failed():
            failure = describe_error(error)
            sys.stderr.write(failure.trace if failure.unforeseen else "")
            print_error(failure.why)
        return 1
    process_group().leave()
    return 0


def _run_task(task: dict[str, Any]) -> None:
    from qlora_repro.session import ModelSession

    cfg = rebuild_config(task["config"])
    cell = find_cell(cfg, Store(Path(cfg.results_dir)))
    with ModelSession(cfg, cell.folder.path) as session:
        get_stage_function("work", task["stage"])(session, tuned=task["tuned"])


@contextmanager
def coordinate() -> Iterator[None]:
    """Dismiss the workers once the command is done, however it ends."""
    if world_size() > 1:
        signal.signal(signal.SIGTERM, _interrupt)  # torchrun sends it when a rank is gone
    try:
        yield
    finally:
        dismiss_workers()


def dismiss_workers() -> None:
    """Tell the workers that there is nothing more to do."""
    if world_size() == 1:
        return
    from torch.distributed import DistError

    from qlora_repro.distributed.process_group import any_rank_failed, process_group

    try:
        process_group().send_task(None)
        if not any_rank_failed():
            process_group().leave()
    except DistError:  # torchrun is gone, and the store with it
        return


def worker_reported() -> bool:
    """Whether a worker failed first, and so has printed the reason."""
    if world_size() == 1:
        return False
    from qlora_repro.distributed.process_group import other_rank_failed

    return other_rank_failed()


def processes_lost() -> bool:
    """Whether the ranks have lost each other, so that nothing more can be trained."""
    if world_size() == 1:
        return False
    from qlora_repro.distributed.process_group import any_rank_failed

    return any_rank_failed()


def check_launcher() -> None:
    """Refuse a launcher that would run cells where the workers are not; ConfigError."""
    launcher = str(HydraConfig.get().launcher["_target_"])
    if world_size() > 1 and launcher != BASIC_LAUNCHER:
        raise ConfigError(
            f"hydra/launcher={HydraConfig.get().runtime.choices['hydra/launcher']} runs cells in "
            f"processes of their own, and {world_size()} were started for each cell; use one or "
            "the other"
        )


def _interrupt(number: int, frame: Any) -> None:
    if not processes_lost():  # else torchrun follows a failure that this rank is reporting already
        raise KeyboardInterrupt
