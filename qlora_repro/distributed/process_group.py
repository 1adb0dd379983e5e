"""How the processes of one run meet: rank 0 coordinates, the workers compute along on its call.

They meet in the key-value store that torchrun keeps for them. Whoever waits there looks again every
few hundredths of a second, so that no time limit ends a long evaluation, and the failure of one
ends the waiting of all. What is computed together goes through NCCL or gloo.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from qlora_repro.distributed.environment import rank, world_size
from qlora_repro.errors import RunError

COLLECTIVE_TIMEOUT = timedelta(days=30)  # a rank that dies ends a collective at once anyway
POLL_SECONDS = 0.03
LEAVE_SECONDS = 5.0  # torchrun ends a rank that is stuck
RANK_ENDED = "another process of this run ended; the same command goes on from the last checkpoint"
CONNECTION_ERRORS = (
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
)
RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT"  # with --max-restarts the store outlives the processes
Piece = TypeVar("Piece")
Result = TypeVar("Result")
Compute = Callable[[Sequence[Piece]], Sequence[Result]]


class StoreKey(StrEnum):
    """The keys of the store that the processes share, or what they begin with."""

    TASK = "task"
    READY = "ready"
    FAILURE = "failed"
    PATH = "path"
    LEFT = "left"


class ProcessGroup:
    """This process among those of its run; `process_group` returns the only one."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.collectives = PrefixStore("group", store)
        self.tasks = 0
        self.paths = 0

    def send_task(self, task: dict[str, Any] | None) -> None:
        """Have the workers compute along; None: there is nothing more to do.

        A task has a cell's `config`, the `stage` and `tuned`: which model the stage works on.
        """
        self.tasks += 1
        self.store.set(f"{StoreKey.TASK}/{self.tasks}", json.dumps(task))

    def next_task(self) -> dict[str, Any] | None:
        """Wait for rank 0's next task, however long it takes; None: there are no more."""
        self.tasks += 1
        self._wait_for([f"{StoreKey.TASK}/{self.tasks}"])
        task: dict[str, Any] | None = json.loads(self.store.get(f"{StoreKey.TASK}/{self.tasks}"))
        return task

    def leave(self) -> None:
        """Leave; rank 0 waits a moment for the others, whose store may end with it."""
        self.store.set(f"{StoreKey.LEFT}/{rank()}", "")
        keys = [f"{StoreKey.LEFT}/{number}" for number in range(world_size())]
        deadline = time.monotonic() + LEAVE_SECONDS
        while rank() == 0 and not self.store.check(keys) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def connect(self, device: torch.device) -> None:
        """Wait until every rank holds its model, then connect them: GPUs by NCCL, CPUs by gloo."""
        self.store.set(f"{StoreKey.READY}/{self.tasks}/{rank()}", "")
        self._wait_for([f"{StoreKey.READY}/{self.tasks}/{n}" for n in range(world_size())])
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=self.collectives,
                rank=rank(),
                world_size=world_size(),
                timeout=COLLECTIVE_TIMEOUT,
            )

    def broadcast_path(self, path: Path | None) -> Path | None:
        """Return the path that rank 0 passes, or None; what the others pass does not count."""
        self.paths += 1
        key = f"{StoreKey.PATH}/{self.paths}"
        if rank() == 0:
            self.store.set(key, json.dumps(None if path is None else str(path)))
            return path
        self._wait_for([key])
        text = json.loads(self.store.get(key))
        return None if text is None else Path(text)

    def first_failure(self) -> tuple[int, str] | None:
        """Return (rank, reason) of the first rank that failed; None where none has."""
        if not self.store.check([StoreKey.FAILURE]):
            return None
        number, reason = json.loads(self.store.get(StoreKey.FAILURE))
        return int(number), str(reason)

    def report_failure(self, error: Exception) -> tuple[int, str]:
        """Note this rank's failure, unless another one failed before; return the first."""
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = RANK_ENDED if is_connection_error(error) else reason
        first = self.store.compare_set(StoreKey.FAILURE, "", json.dumps([rank(), reason]))
        number, reason = json.loads(first)
        return int(number), str(reason)

    def _wait_for(self, keys: Sequence[str]) -> None:
        while not self.store.check(list(keys)):
            if (failure := self.first_failure()) is not None:
                raise RunError(failure[1])
            time.sleep(POLL_SECONDS)


@cache
def process_group() -> ProcessGroup:
    """Return this process among the others, once it has found their store."""
    store, *_ = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    return ProcessGroup(PrefixStore(f"qlora_repro/{os.environ.get(RESTART_COUNT, 0)}", store))


def is_connection_error(error: Exception) -> bool:
    """Whether an error says no more than that another process is gone.

    >>> is_connection_error(RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:38"))
    True
    >>> is_connection_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, distributed.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error) for word in CONNECTION_ERRORS)


def other_rank_failed() -> bool:
    """Whether another rank failed first, and so has printed the reason."""
    failure = process_group().first_failure()
    return failure is not None and failure[0] != rank()


def any_rank_failed() -> bool:
    """Whether a rank failed: nothing more can be computed together."""
    return process_group().first_failure() is not None


@contextmanager
def shared_failure() -> Iterator[None]:
    """Enclose what every rank computes: what fails here fails for all.

    Raises:
        RunError: With the reason of the rank that failed first, where that was not this one.
    """
    if world_size() == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        number, reason = process_group().report_failure(error)
        if number != rank() or is_connection_error(error):
            raise RunError(reason) from error
        raise


class Distribute(Protocol):
    """Computes one result a piece, in the order of the pieces, here or in several processes."""

    def __call__(self, pieces: Sequence[Piece], compute: Compute[Piece, Result]) -> list[Result]:
        """Return the results of all pieces."""


def compute_locally(pieces: Sequence[Piece], compute: Compute[Piece, Result]) -> list[Result]:
    """Compute every piece in this process.

    >>> compute_locally([1, 2, 3], lambda numbers: [number**2 for number in numbers])
    [1, 4, 9]
    """
    return list(compute(pieces))


def distribute(pieces: Sequence[Piece], compute: Compute[Piece, Result]) -> list[Result]:
    """Compute the pieces in turn by rank: the first in rank 0, the second in rank 1, and so on.

    All ranks must pass the same pieces, once they are connected; each returns all results.
    """
    ranks = world_size()
    mine = pieces[rank() :: ranks]
    parts: list[Any] = [None] * ranks
    distributed.all_gather_object(parts, list(compute(mine)) if mine else [])  # gloo, on the host
    return [parts[number % ranks][number // ranks] for number in range(len(pieces))]
