"""Optuna's journal with a digest a line: what a fault damaged is named, dropped and redone."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages.journal import JournalFileBackend

from qlora_repro.console import note
from qlora_repro.errors import StoreError

DIGEST = "sha256"  # beside optuna's own fields, of which it is; lines from before have none


class ChecksummedJournal(JournalFileBackend):
    """A journal file that optuna can still read by itself; its damaged tail is cut off.

    What a dropped trial computed is in the store, so proposing it again costs next to nothing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        _drop_damaged_tail(path)
        super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines with their digests; StoreError where they cannot be written."""
        try:
            super().append_logs([log | {DIGEST: _digest(log)} for log in logs])
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written ({error.strerror}); the same command goes on once "
                "it can"
            ) from error


def lock_study(path: Path, name: str) -> FileLock:
    """Hold a study for this process; StoreError where another search is at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.{name.replace('/', '-')}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(
            f"another search is at {name} in {path}; wait for it, or write hydra.sweeper.study=NAME"
        ) from error
    return lock


def _drop_damaged_tail(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    intact = _count_intact(lines)
    if intact < len(lines):
        note(f"{path} is damaged from line {intact + 1} on; the trials from there are done again")
        with path.open("r+b") as file:
            file.truncate(sum(map(len, lines[:intact])))


def _count_intact(lines: Sequence[bytes]) -> int:
    """Return how many lines are as they were written, up to the first that is not."""
    checksummed = False
    for number, line in enumerate(lines):
        try:
            log = json.loads(line)
            digest = log.pop(DIGEST, None)
        except (ValueError, AttributeError):
            return number
        checksummed = checksummed or digest is not None
        if not line.endswith(b"\n") or (checksummed and digest != _digest(log)):
            return number
    return len(lines)


def _digest(log: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(log, sort_keys=True).encode()).hexdigest()[:16]
