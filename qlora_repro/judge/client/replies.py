"""Replies on disk: appended and synced before they are used, found again by the whole request.

A file of JSON lines. A line counts once its line break is written: a process that is killed while
it writes leaves a torn last line, which the next one cuts off. Lines are written as they come, so
that such an end loses none, and share syncs: what comes during one goes into the next.
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
    """JSON lines that are only appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = _whole_rows(path)
        self._file = path.open("ab")
        self._waiting: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None

    def append(self, row: bytes) -> asyncio.Future[None]:
        """Write a row of JSON; what is returned is done once it is on disk, or cannot get there."""
        self._file.write(row + b"\n")
        self._file.flush()
        synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(synced)
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
        return synced

    async def _sync(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            fault: OSError | None = None
            try:
                await asyncio.to_thread(os.fsync, self._file.fileno())
            except OSError as error:
                fault = error
            for synced in batch:
                if synced.done():  # its waiter was cancelled; the row stays
                    continue
                if fault is None:
                    synced.set_result(None)
                else:
                    synced.set_exception(fault)

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

    def put(self, key: str, request: bytes, response: dict[str, Any]) -> asyncio.Future[None]:
        """Write a reply beside the request that it answers, which is JSON as it was sent.

        Once what is returned is done, the reply is on disk and found here.
        """

        def found(synced: asyncio.Future[None]) -> None:
            if not synced.cancelled() and synced.exception() is None:
                self._found[key] = response

        reply = json.dumps(response).encode()
        row = b'{"key": "%b", "request": %b, "response": %b}' % (key.encode(), request, reply)
        synced = self._journal.append(row)
        synced.add_done_callback(found)
        return synced

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
