"""How the processes of one run meet: rank 0 leads, the others train along when it says so.

They meet in the key-value store that torchrun keeps for them. Whoever waits there looks again every
few hundredths of a second, so that no time limit ends a long evaluation, and the failure of another
ends the waiting. What is computed together goes through NCCL or gloo.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from qlora_repro.distributed.environment import processes, rank
from qlora_repro.errors import RunError

PATIENCE = timedelta(days=30)  # of a collective: a rank that died ends it at once, by its sockets
PAUSE = 0.03  # s between two looks
FAREWELL = 5.0  # s; a rank that is stuck is ended by torchrun
ENDED = "another process of this run ended; the same command goes on from the last checkpoint"
BROKEN = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
ORDER, READY, FAILED, AGREED, GONE = "order", "ready", "failed", "agreed", "gone"
Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Together:
    """This process among those of its run; there is one, which `together` returns."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.group = PrefixStore("group", store)
        self.orders = 0
        self.agreements = 0

    def order(self, task: dict[str, Any] | None) -> None:
        """Tell the other ranks to work along with this one; None: to go home.

        A task has a cell's `config`, and as `work` train, score or answer, the latter two with
        `tuned`: which model is scored or asked.
        """
        self.orders += 1
        self.store.set(f"{ORDER}/{self.orders}", json.dumps(task))

    def next_order(self) -> dict[str, Any] | None:
        """Wait for rank 0's next order, however long it takes; None: there are no more."""
        self.orders += 1
        self._await([f"{ORDER}/{self.orders}"])
        found: dict[str, Any] | None = json.loads(self.store.get(f"{ORDER}/{self.orders}"))
        return found

    def part(self) -> None:
        """Say goodbye: rank 0 waits a moment for the others, whose store may end with it."""
        self.store.set(f"{GONE}/{rank()}", "")
        others = [f"{GONE}/{other}" for other in range(processes())]
        ends = time.monotonic() + FAREWELL
        while rank() == 0 and not self.store.check(others) and time.monotonic() < ends:
            time.sleep(PAUSE)

    def meet(self, device: torch.device) -> None:
        """Wait until every rank holds its model, then connect them: GPUs by NCCL, CPUs by gloo."""
        self.store.set(f"{READY}/{self.orders}/{rank()}", "")
        self._await([f"{READY}/{self.orders}/{other}" for other in range(processes())])
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=self.group,
                rank=rank(),
                world_size=processes(),
                timeout=PATIENCE,
            )

    def agreed(self, path: Path | None) -> Path | None:
        """Return the path that rank 0 passes, or None; what the others pass does not count."""
        self.agreements += 1
        key = f"{AGREED}/{self.agreements}"
        if rank() == 0:
            self.store.set(key, json.dumps(None if path is None else str(path)))
            return path
        self._await([key])
        found = json.loads(self.store.get(key))
        return None if found is None else Path(found)

    def failure(self) -> tuple[int, str] | None:
        """Return (rank, why) of the first to fail; None: all are in step."""
        if not self.store.check([FAILED]):
            return None
        number, why = json.loads(self.store.get(FAILED))
        return int(number), str(why)

    def fail(self, error: Exception) -> tuple[int, str]:
        """Put this rank's failure down, unless another one failed before; return the first."""
        why = ENDED if broken(error) else " ".join(str(error).split()) or type(error).__name__
        first = self.store.compare_set(FAILED, "", json.dumps([rank(), why]))
        number, why = json.loads(first)
        return int(number), str(why)

    def _await(self, keys: Sequence[str]) -> None:
        while not self.store.check(list(keys)):
            if (failure := self.failure()) is not None:
                raise RunError(failure[1])
            time.sleep(PAUSE)


@cache
def together() -> Together:
    """Return this process among the others, once it has found their store."""
    store, *_ = next(rendezvous("env://", timeout=PATIENCE))
    return Together(PrefixStore(f"qlora_repro/{os.environ.get(ATTEMPT, 0)}", store))


ATTEMPT = "TORCHELASTIC_RESTART_COUNT"  # with --max-restarts the store outlives the processes


def broken(error: Exception) -> bool:
    """Whether an error says no more than that another process is gone.

    >>> broken(RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:3822"))
    True
    >>> broken(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, distributed.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error) for word in BROKEN)


def failed_elsewhere() -> bool:
    """Whether another rank failed first, and so has said why."""
    if processes() == 1:
        return False
    failure = together().failure()
    return failure is not None and failure[0] != rank()


def out_of_step() -> bool:
    """Whether a rank failed: nothing more can be computed together."""
    return processes() > 1 and together().failure() is not None


@contextmanager
def in_step() -> Iterator[None]:
    """Enclose what every rank does alike: what fails here fails for all.

    Raises RunError, in the words of the rank that failed first, where that was not this one.
    """
    if processes() == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        number, why = together().fail(error)
        if number != rank() or broken(error):
            raise RunError(why) from error
        raise


class Distribute(Protocol):
    """Computes one result a piece, in the order of the pieces, here or in several processes."""

    def __call__(
        self, pieces: Sequence[Piece], compute: Callable[[Sequence[Piece]], Sequence[Result]]
    ) -> list[Result]:
        """Return the results of all pieces."""


def compute_locally(
    pieces: Sequence[Piece], compute: Callable[[Sequence[Piece]], Sequence[Result]]
) -> list[Result]:
    """Compute every piece in this process.

    >>> compute_locally([1, 2, 3], lambda numbers: [number**2 for number in numbers])
    [1, 4, 9]
    """
    return list(compute(pieces))


def distribute(
    pieces: Sequence[Piece], compute: Callable[[Sequence[Piece]], Sequence[Result]]
) -> list[Result]:
    """Compute every so-manyth piece in this rank and the others in the other ranks.

    All ranks must pass the same pieces, after they have met; each returns all results.
    """
    many = processes()
    mine = pieces[rank() :: many]
    parts: list[Any] = [None] * many
    distributed.all_gather_object(parts, list(compute(mine)) if mine else [])  # gloo, on the host
    return [parts[number % many][number // many] for number in range(len(pieces))]
