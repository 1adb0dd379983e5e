"""Replies on disk: appended and synced before they are used, found again by the whole request.

A file of JSON lines. A line counts once its line break is on disk: a process that is killed while
it writes leaves a torn last line, which the next one cuts off. Writers share one sync: whatever
waits when a sync is over goes into the next.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qlora_repro.console import note, say
from qlora_repro.errors import StoreError

FILE = "replies.jsonl"
LOCK = ".replies.lock"


def request_key(base_url: str, body: dict[str, Any]) -> str:
    """Return the sha256 of everything that decides a reply; the API key is no part of it."""
    whole = json.dumps({"base_url": base_url, "body": body}, sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


class Journal:
    """JSON lines that are only appended to; each is on disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = _whole_rows(path)
        self._file = path.open("ab")
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._syncing: asyncio.Task[None] | None = None

    async def append(self, row: dict[str, Any]) -> None:
        """Write a row and wait until it is on disk."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((json.dumps(row).encode() + b"\n", written))
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
        await written

    async def _sync(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._write, b"".join(line for line, _ in batch))
            except OSError as error:
                for _, written in batch:
                    if not written.done():
                        written.set_exception(error)
                continue
            for _, written in batch:
                if not written.done():  # its waiter may have been cancelled; the row stays
                    written.set_result(None)

    def _write(self, lines: bytes) -> None:
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        self._file.close()


class Replies:
    """The stored replies of one folder, by the key of their request."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / FILE)
        self._found: dict[str, dict[str, Any]] = {
            row["key"]: row["response"] for row in self._journal.rows
        }
        self._journal.rows = []  # the requests in it are not needed again

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._found[key]

    def __len__(self) -> int:
        return len(self._found)

    async def put(self, key: str, request: dict[str, Any], response: dict[str, Any]) -> None:
        """Store a reply beside the request that it answers; it can be used once it is on disk."""
        await self._journal.append({"key": key, "request": request, "response": response})
        self._found[key] = response

    def close(self) -> None:
        """Close the file."""
        self._journal.close()


@contextmanager
def replies_in(folder: Path) -> Iterator[Replies]:
    """Open the replies of a folder for this process alone; another one waits, and then has them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            replies = Replies(folder)
            try:
                yield replies
            finally:
                replies.close()
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}); replies are stored before "
            "they are used, so nothing more was asked"
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is asking a judge for {folder}; this one waits for its replies")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Read a journal; cut off a last line that a killed process left unfinished, and say so."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        note(f"{path}: a last line of {len(data) - len(whole)} bytes was never finished; dropped")
        with path.open("rb+") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise StoreError(
            f"{path} holds a line that is not JSON, so something else wrote to it; move the file "
            "away to ask anew"
        ) from error
