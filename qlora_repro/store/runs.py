"""The store: one folder a run, records written whole or not at all; what is there is done.

Scores of consecutive tokens by block: all that statistics over blocks need of them.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from qlora_repro.errors import Busy, StoreError
from qlora_repro.records import PERPLEXITY
from qlora_repro.store.integrity import torn, write_vouched, write_whole
from qlora_repro.store.lock import Claim, claimed, holder
from qlora_repro.store.progress import PROGRESS, write_progress

FORMAT = 1
LOCKS = ".claims"
Record = TypeVar("Record")


class Folder:
    """One run's folder, `<slug>-<digest>`."""

    def __init__(
        self, path: Path, run_id: str, told: Callable[[str], object] | None = None
    ) -> None:
        self.path = path
        self.run_id = run_id
        self.told = told  # is told of each torn file
        self.claim: Claim | None = None

    def has(self, name: str) -> bool:
        """Whether a record file of this name is finished; one that is torn is named, and is not."""
        path = self.path / name
        if not path.exists():
            return False
        why = torn(path)
        if why is not None and self.told is not None:
            self.told(f"{path} {why}; it is made again")
        return why is None

    def write(self, name: str, records: Iterable[Any]) -> None:
        """Write frozen records as JSON lines, whole or not at all."""
        self._write(name, "".join(json.dumps(asdict(r)) + "\n" for r in records))

    def read(self, name: str, kind: type[Record]) -> list[Record]:
        """Read the records of a finished file back."""
        return [kind(**row) for row in read_lines(self.path / name)]

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON document, whole or not at all."""
        self._write(name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """Read one JSON document."""
        return read_document(self.path / name)

    def _write(self, name: str, text: str) -> None:
        if self.claim is not None and self.claim.lost:
            raise StoreError(
                f"this process stood still for so long that another one took {self.path} over; "
                "run the same command again"
            )
        write_vouched(self.path / name, text)

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold this run for one process; Busy when another has it, unless it may wait."""
        lock = self._lock  # apart, so that a refused run leaves no folder of its own
        lock.parent.mkdir(parents=True, exist_ok=True)
        with claimed(lock, wait=wait) as claim:
            if claim is None:
                raise Busy(
                    f"another process ({holder(lock) or 'just gone'}) is working on {self.path}; "
                    "wait for it, or change seed or results_dir"
                )
            self.claim = claim
            self.drop(".*.part")  # of a process that was killed
            try:
                yield
            finally:
                self.claim = None
                self.drop(PROGRESS)
                self._prune()

    def note_progress(self, stage: str, **facts: Any) -> None:
        """Note what this process does here."""
        write_progress(self.path, stage, **facts)

    def drop(self, *patterns: str) -> None:
        """Delete files that no longer hold."""
        for path in [found for pattern in patterns for found in self.path.glob(pattern)]:
            if path.is_file():
                path.unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        return self.path.parent / LOCKS / self.path.name

    def held_by(self) -> str | None:
        """Return the process that works on this run, in words; None when none does."""
        return holder(self._lock)

    def _prune(self) -> None:
        """Remove what is empty: a run that was refused leaves no folder."""
        for path in (*self.path.glob("*"), self.path):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


class Store:
    """A results folder: open it with `open_store`."""

    def __init__(self, root: Path, told: Callable[[str], object] | None = None) -> None:
        self.root = root
        self.told = told

    def folder(self, slug: str, digest: str) -> Folder:
        """Return the folder of a run, made when it is first written to."""
        return Folder(self.root / f"{slug}-{digest}", digest, self.told)


def open_store(root: str | Path, *, told: Callable[[str], object] | None = None) -> Store:
    """Open or start a results folder; StoreError when it is unwritable or of a newer format.

    `told` is called with a sentence for each torn file that is come upon.
    """
    root = Path(root)
    mark = root / "store.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if mark.exists():
            found = json.loads(mark.read_text()).get("format")
            if not isinstance(found, int) or found > FORMAT:
                raise StoreError(
                    f"results_dir={root} has format {found}, and this version reads up to "
                    f"{FORMAT}; update qlora_repro or choose another results_dir"
                )
        else:
            write_whole(mark, json.dumps({"format": FORMAT}) + "\n")
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise StoreError(
            f"results_dir={root} cannot be written: {error.strerror}; choose a folder you own"
        ) from error
    except (json.JSONDecodeError, AttributeError) as error:
        raise StoreError(
            f"{mark} is not a store's mark; delete it if it was cut off, or choose another "
            "results_dir"
        ) from error
    return Store(root, told)


def _whole_text(path: Path) -> str:
    why = torn(path)
    if why is not None:
        raise StoreError(f"{path} {why}; run the command that made it again, which redoes it")
    return path.read_text(encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; StoreError for a file that is not what was written."""
    return [json.loads(line) for line in _whole_text(path).splitlines()]


def read_document(path: Path) -> Any:
    """Read one JSON document; StoreError for a file that is not what was written."""
    text = _whole_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(f"{path} is no JSON document; delete it and run again") from error


Row = dict[str, Any]
TOKENS = "tokens"  # how many of them a row stands for


def in_blocks(rows: Iterable[Row], size: int) -> Iterator[Row]:
    """Yield a row for every `size` consecutive tokens of a text: their mean, and how many they are.

    Rows of other tasks stay as they are. The hash of a block is that of its tokens' hashes.
    """
    for (task, _), group in groupby(rows, key=lambda row: (row["task"], row["name"])):
        if task != PERPLEXITY:
            yield from group
            continue
        tokens = sorted(group, key=lambda row: int(row["doc_id"]))
        for start in range(0, len(tokens), size):
            yield _block(tokens[start : start + size])


def _block(rows: Sequence[Row]) -> Row:
    digest = hashlib.sha256("\n".join(row["doc_hash"] for row in rows).encode()).hexdigest()[:16]
    mean = sum(row["value"] for row in rows) / len(rows)
    return rows[0] | {"doc_hash": digest, "value": mean, TOKENS: len(rows)}


def read_answers(path: Path) -> list[Row]:
    """Read answers; a block of tokens comes back as so many tokens, each with the block's mean.

    So means, and sums and resamples of whole blocks, are those of the tokens themselves. Raises
    StoreError for a file that is not what was written.
    """
    return [token for row in read_lines(path) for token in _tokens(row)]


def _tokens(row: Row) -> Iterator[Row]:
    n = row.pop(TOKENS, None)
    if n is None:
        yield row
        return
    for place in range(n):
        yield row | {
            "doc_id": row["doc_id"] + place,
            "doc_hash": f"{row['doc_hash']}/{place}",
        }
