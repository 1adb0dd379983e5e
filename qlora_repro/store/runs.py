"""The store: one folder a run, records written whole or not at all; what is there is done."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from qlora_repro.errors import StoreError

FORMAT = 1
LOCKS = ".locks"
Record = TypeVar("Record")


class Folder:
    """One run's folder, `<slug>-<digest>`."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self.run_id = run_id

    def has(self, name: str) -> bool:
        """Whether a record file of this name is finished."""
        return (self.path / name).exists()

    def write(self, name: str, records: Iterable[Any]) -> None:
        """Write frozen records as JSON lines, whole or not at all."""
        write_whole(self.path / name, "".join(json.dumps(asdict(r)) + "\n" for r in records))

    def read(self, name: str, kind: type[Record]) -> list[Record]:
        """Read the records of a finished file back."""
        return [kind(**row) for row in read_lines(self.path / name)]

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON document, whole or not at all."""
        write_whole(self.path / name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """Read one JSON document."""
        return json.loads((self.path / name).read_text())

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold this run for one process; StoreError when another has it, unless it may wait."""
        locks = self.path.parent / LOCKS  # apart, so that a refused run leaves no folder of its own
        try:
            locks.mkdir(parents=True, exist_ok=True)
            lock = FileLock(locks / self.path.name, timeout=-1 if wait else 0)
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"another process is working on {self.path}; wait for it, or change seed or "
                "results_dir"
            ) from error
        try:
            yield
        finally:
            self._prune()
            lock.release()

    def _prune(self) -> None:
        """Remove what is empty: a run that was refused leaves no folder."""
        for path in (*self.path.glob("*"), self.path):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


class Store:
    """A results folder: open it with `open_store`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, slug: str, digest: str) -> Folder:
        """Return the folder of a run, made when it is first written to."""
        return Folder(self.root / f"{slug}-{digest}", digest)


def open_store(root: str | Path) -> Store:
    """Open or start a results folder; StoreError when it is unwritable or of a newer format."""
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
    except json.JSONDecodeError as error:
        raise StoreError(f"{mark} is not a store's mark; choose another results_dir") from error
    return Store(root)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there completely or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with name.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
