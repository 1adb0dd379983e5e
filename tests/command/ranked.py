"""The command in several forked processes, started and ended as torchrun does it."""

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from forking import Forked, fork
from running import PATIENCE


class Ranks:
    """Processes that are one run."""

    def __init__(self, folder: Path, *words: str, many: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.runs = [self._start(rank, many, port, folder, words) for rank in range(many)]
        self.codes: dict[int, int] = {}

    def _start(self, rank: int, many: int, port: str, folder: Path, words: Sequence[str]) -> Forked:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RANK", "LOCAL_RANK"):
                patch.setenv(name, str(rank))
            for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
                patch.setenv(name, str(many))
            patch.setenv("MASTER_ADDR", "127.0.0.1")
            patch.setenv("MASTER_PORT", port)
            return fork(folder, *words)

    def look(self) -> None:
        """Note who has ended."""
        for rank, run in enumerate(self.runs):
            if rank not in self.codes:
                pid, status = os.waitpid(run.pid, os.WNOHANG)
                if pid:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)

    def end(self) -> dict[int, int]:
        """Wait for all, and end the others when one fails; return the exit codes by rank."""
        ends = time.monotonic() + PATIENCE
        told = False
        while len(self.codes) < len(self.runs):
            self.look()
            if any(self.codes.values()) and not told:
                told = True
                for rank, run in enumerate(self.runs):
                    if rank not in self.codes:
                        os.kill(run.pid, signal.SIGTERM)
            if time.monotonic() > ends:
                for rank in set(range(len(self.runs))) - set(self.codes):
                    os.kill(self.runs[rank].pid, signal.SIGKILL)
                raise AssertionError(f"hung: {[run.output for run in self.runs]}")
            time.sleep(0.02)
        return self.codes

    def output(self, rank: int) -> str:
        """Return what one of them printed, on both streams."""
        return self.runs[rank].output
