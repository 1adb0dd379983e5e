"""Replies on disk: appended and synced before they are used, found again by the whole request.

A file of JSON lines. A line counts once its line break is written: a process that is killed while
it writes leaves an incomplete last line, which the next process cuts off. Each ends with the digest
of what it says; one that says something else by now is named, and what it held is asked anew. Lines
that come during one sync share the next.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qlora_repro.console import note, say
from qlora_repro.errors import StoreError

FILE = "replies.jsonl"
SEAL = b', "sha256": "%b"}'  # how a line ends; lines of earlier versions end without
SEAL_BYTES = len(SEAL % (b"0" * 64))
LOCK = ".replies.lock"


def hash_request(base_url: str, body: dict[str, Any]) -> str:
    """Return the sha256 of everything that decides a reply; the API key is no part of it."""
    text = json.dumps({"base_url": base_url, "body": body}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """JSON lines that are only appended to.

    Attributes:
        rows: what the file held when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.rows = _read_complete_rows(path)
        self._file = path.open("ab")
        self._waiting: list[asyncio.Future[None]] = []
        self._sync_task: asyncio.Task[None] | None = None

    def append(self, row: bytes) -> asyncio.Future[None]:
        """Write an object of JSON at once; return a future that is done once it is on the disk."""
        self._file.write(_seal(row) + b"\n")
        self._file.flush()
        synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(synced)
        if self._sync_task is None or self._sync_task.done():
            self._sync_task = asyncio.create_task(self._sync())
        return synced

    async def _sync(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(os.fsync, self._file.fileno())
            except OSError as error:
                for synced in batch:
                    if not synced.done():
                        synced.set_exception(error)
            for synced in batch:
                if not synced.done():  # a cancelled waiter's row stays
                    synced.set_result(None)

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        self._file.close()


class ReplyStore:
    """The stored replies of one folder, by the key of their request."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / FILE)
        self._replies: dict[str, dict[str, Any]] = {}
        for row in self._journal.rows:
            key, response = row.get("key"), row.get("response")
            if not isinstance(key, str) or not isinstance(response, dict):
                note(f"{folder / FILE}: a line is no reply to a request; left out")
            elif self._replies.setdefault(key, response) != response:
                note(f"{folder / FILE}: request {key[:12]} has two replies; the first counts")
        self._journal.rows = []  # the requests in them are not needed again

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._replies[key]

    def __len__(self) -> int:
        return len(self._replies)

    async def add(self, key: str, request: bytes, response: dict[str, Any]) -> None:
        """Store a reply beside its request, which is JSON as it was sent.

        The row is written at once, and synced and found when this returns.
        """
        reply = json.dumps(response).encode()
        row = b'{"key": "%b", "request": %b, "response": %b}' % (key.encode(), request, reply)
        await self._journal.append(row)
        self._replies[key] = response

    def close(self) -> None:
        """Close the file."""
        self._journal.close()


@contextmanager
def open_replies(folder: Path) -> Iterator[ReplyStore]:
    """Open the replies of a folder for this process alone; another one waits for its turn."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _acquire_lock(folder), closing(ReplyStore(folder)) as replies:
            yield replies
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}); replies are stored before "
            "they are used, so nothing more was asked"
        ) from error


def _acquire_lock(folder: Path) -> AbstractContextManager[Any]:
    """Lock a folder, if need be once another process is done; leaving the context unlocks it."""
    lock = FileLock(folder / LOCK)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is asking a judge for {folder}; this one waits for its replies")
        return lock.acquire()


def _read_complete_rows(path: Path) -> list[dict[str, Any]]:
    """Read a journal; cut off a last line that a killed process left unfinished, and say so."""
    if not path.exists():
        return []
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if complete != data:
        size = len(data) - len(complete)
        note(f"{path}: a last line of {size} bytes was never finished; dropped")
        with path.open("rb+") as file:
            file.truncate(len(complete))
            os.fsync(file.fileno())
    lines = complete.splitlines()
    rows = [_read_line(line) for line in lines]
    for number, row in enumerate(rows, 1):
        if row is None:
            note(f"{path}: line {number} holds other bytes than were written; left out")
    if lines and not any(rows):
        raise StoreError(
            f"{path} holds no line that is JSON as it was written, so something else wrote to it; "
            "move the file away to ask anew"
        )
    return [row for row in rows if row is not None]


def _seal(row: bytes) -> bytes:
    """Return an object of JSON with the digest of its bytes as its last entry."""
    content = row.removesuffix(b"}")
    return content + SEAL % hashlib.sha256(content).hexdigest().encode()


def _read_line(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line; None for one that is none, or not the one that was written."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    digest = row.pop("sha256", None)
    return row if digest is None or _seal(line[:-SEAL_BYTES] + b"}") == line else None
