"""A results folder: one folder a run, whose files are written complete or not at all.

`RunFolder` is the only writer of a run's files. What is there and intact is done, so that a command
given again goes on where it stopped. `progress.json` and `failed.json` are notes for people and for
`analysis status`, never results.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from filelock import SoftFileLease

from qlora_repro.errors import Busy, StoreError, Superseded
from qlora_repro.records import PERPLEXITY, CellState
from qlora_repro.store.integrity import describe_corruption, write_atomic, write_checksummed
from qlora_repro.store.lock import describe_holder, hold_lock, is_lost

FORMAT = 1
LOCKS = ".claims"  # beside the runs, so that a refused run leaves no folder of its own
PROGRESS = "progress.json"  # while a process works on the run, and after one that was killed
FAILURE = "failed.json"  # reason and traceback, until the run is started again
TOKENS = "tokens"  # how many tokens of a text an answer stands for
Record = TypeVar("Record")
Row = dict[str, Any]
Warn = Callable[[str], object]


class RunFolder:
    """One run's folder, `<name>-<run id>`.

    Args:
        path: The folder, which is made when it is first written to.
        run_id: The run's id.
        warn: Called with a sentence for each corrupt file that is met.
    """

    def __init__(self, path: Path, run_id: str, warn: Warn | None = None) -> None:
        self.path = path
        self.run_id = run_id
        self.warn = warn
        self.lock: SoftFileLease | None = None

    def has(self, name: str) -> bool:
        """Whether a file is there and intact; a corrupt one is named, and does not count."""
        path = self.path / name
        if not path.exists():
            return False
        reason = describe_corruption(path)
        if reason is not None and self.warn is not None:
            self.warn(f"{path} {reason}; it is made again")
        return reason is None

    def write_records(self, name: str, records: Iterable[Any]) -> None:
        """Write dataclasses as JSON lines."""
        self._write(name, "".join(json.dumps(asdict(record)) + "\n" for record in records))

    def read_records(self, name: str, kind: type[Record]) -> list[Record]:
        """Read the records of a finished file; StoreError for a corrupt one."""
        return [kind(**row) for row in read_json_lines(self.path / name)]

    def write_json(self, name: str, document: Any) -> None:
        """Write one JSON document."""
        self._write(name, json.dumps(document, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """Read one JSON document; StoreError for a corrupt one."""
        return read_json(self.path / name)

    def write_progress(self, stage: str, **facts: Any) -> None:
        """Note the stage and how far it is; `at` is this machine's clock, `began` the stage's."""
        before = read_note(self.path / PROGRESS) or {}
        now = time.time()
        began = before["began"] if before.get("stage") == stage else now
        self._write_note(PROGRESS, {"stage": stage, "began": began, "at": now, **facts})

    def write_failure(self, *, state: str, reason: str, trace: str, rerun: str) -> None:
        """Note how the run failed; `rerun` is the command that runs it again."""
        at = time.strftime("%Y-%m-%d %H:%M:%S")
        note = {"state": state, "why": reason, "at": at, "rerun": rerun}
        self._write_note(FAILURE, note | {"traceback": trace.splitlines()})

    def remove(self, *patterns: str) -> None:
        """Delete the files and folders that match."""
        self.check_held()
        for path in [path for pattern in patterns for path in self.path.glob(pattern)]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold this run for one process; Busy when another has it, unless it may wait."""
        path = self._lock_path
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(path, wait=wait) as self.lock:
            if self.lock is None:
                raise Busy(
                    f"another process ({describe_holder(path) or 'just gone'}) is working on "
                    f"{self.path}; wait for it, or change seed or results_dir"
                )
            self.remove(".*.part")  # of a process that was killed
            try:
                yield
            finally:
                held, self.lock = not is_lost(self.lock), None
                if held:
                    self.remove(PROGRESS)
                    self._remove_empty()

    def held_by(self) -> str | None:
        """Return the process that works on this run, in words; None when none does."""
        return describe_holder(self._lock_path)

    @property
    def _lock_path(self) -> Path:
        return self.path.parent / LOCKS / self.path.name

    def check_held(self) -> None:
        """Raise Superseded where another process took over a run that this one has locked.

        Whatever changes the folder asks first: files, notes, weights, checkpoints, deletions.
        """
        if self.lock is not None and is_lost(self.lock):
            raise Superseded(
                f"this process stood still for so long that another one took {self.path} over; "
                "run the same command again"
            )

    def _write(self, name: str, text: str) -> None:
        write_checksummed(self.path / name, text, self.check_held)

    def _write_note(self, name: str, note: dict[str, Any]) -> None:
        text = json.dumps(note, indent=1) + "\n"
        write_atomic(self.path / name, text, sync=False, check=self.check_held)

    def _remove_empty(self) -> None:
        """Remove what is empty: a run that was refused leaves no folder."""
        for path in (*self.path.glob("*"), self.path):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


class Store:
    """A results folder: open it with `open_store`."""

    def __init__(self, root: Path, warn: Warn | None = None) -> None:
        self.root = root
        self.warn = warn

    def folder(self, name: str, run_id: str) -> RunFolder:
        """Return the folder of a run, made when it is first written to."""
        return RunFolder(self.root / f"{name}-{run_id}", run_id, self.warn)


def open_store(root: str | Path, *, warn: Warn | None = None) -> Store:
    """Open or start a results folder.

    Args:
        root: The folder.
        warn: Called with a sentence for each corrupt file that is met.

    Raises:
        StoreError: The folder cannot be written, or a newer version wrote it.
    """
    root = Path(root)
    path = root / "store.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if path.exists():
            version = json.loads(path.read_text()).get("format")
            if not isinstance(version, int) or version > FORMAT:
                raise StoreError(
                    f"results_dir={root} has format {version}, and this version reads up to "
                    f"{FORMAT}; update qlora_repro or choose another results_dir"
                )
        else:
            write_atomic(path, json.dumps({"format": FORMAT}) + "\n")
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise StoreError(
            f"results_dir={root} cannot be written: {error.strerror}; choose a folder you own"
        ) from error
    except (ValueError, AttributeError) as error:  # no UTF-8, no JSON, no object
        raise StoreError(
            f"{path} is not a store's mark; delete it if it was cut off, or choose another "
            "results_dir"
        ) from error
    return Store(root, warn)


def read_text(path: Path) -> str:
    """Read a file; StoreError for one that differs from what was written."""
    reason = describe_corruption(path)
    if reason is not None:
        raise StoreError(f"{path} {reason}; run the command that made it again, which redoes it")
    return path.read_text(encoding="utf-8")


def read_json_lines(path: Path) -> list[Row]:
    """Read JSON lines; StoreError for a file that differs from what was written."""
    return [json.loads(line) for line in read_text(path).splitlines()]


def read_json(path: Path) -> Any:
    """Read one JSON document; StoreError for a file that differs from what was written."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(f"{path} is no JSON document; delete it and run again") from error


def read_note(path: Path) -> Row | None:
    """Return a note; None where there is none, or one that was cut off."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def read_failure(folder: Path) -> Row | None:
    """Return the note of how a run failed, with `state` and `why`; None where it did not."""
    note = read_note(folder / FAILURE)
    if note is None:
        return None
    known = note.get("state") == CellState.OUT_OF_MEMORY
    state = CellState.OUT_OF_MEMORY if known else CellState.FAILED
    return note | {"state": state, "why": " ".join(str(note.get("why", "")).split())}


def average_windows(rows: Iterable[Row], size: int) -> Iterator[Row]:
    """Yield a row for every `size` consecutive tokens of a text: their mean, and how many they are.

    It is all that statistics over windows need. Rows of other tasks, and windows, stay as they are.
    A window's hash is that of its tokens' hashes.
    """
    for (task, _), group in groupby(rows, key=lambda row: (row["task"], row["name"])):
        answers = list(group)
        if task != PERPLEXITY or any(TOKENS in row for row in answers):
            yield from answers
            continue
        tokens = sorted(answers, key=lambda row: int(row["doc_id"]))
        for start in range(0, len(tokens), size):
            yield _average_window(tokens[start : start + size])


def _average_window(rows: Sequence[Row]) -> Row:
    digest = hashlib.sha256("\n".join(row["doc_hash"] for row in rows).encode()).hexdigest()[:16]
    scored = [row["value"] for row in rows if row["value"] is not None]
    mean = sum(scored) / len(scored) if scored else None
    return rows[0] | {"doc_hash": digest, "value": mean, TOKENS: len(rows)}
