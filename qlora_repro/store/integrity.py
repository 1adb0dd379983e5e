"""Files that are complete or absent, and checksums by which a corrupt one is known.

Every folder that holds results has a `whole.json`: {name: {"bytes": size, "sha256": digest}}. A
record is entered there before it is written, so that no file is older than its entry; a checkpoint
or an adapter once its files are on the disk. A file that differs from its entry does not count.
Without `whole.json`, as in an older store, records count when they end with the end of a line, and
documents when they are valid JSON; weights do not count, as nothing shows a flipped bit in them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKSUMS = "whole.json"


def write_atomic(
    path: Path, text: str, *, sync: bool = True, check: Callable[[], object] = bool
) -> None:
    """Write a file that is there completely or not at all; with `sync` also after a power cut.

    Just before it takes its place, `check` may raise: nothing is changed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        check()
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            check()  # whoever took over cleans up after this process
        raise


def checksum(content: bytes) -> dict[str, Any]:
    """Return the entry of a file with this content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def hash_file(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksummed(path: Path, text: str, check: Callable[[], object] = bool) -> None:
    """Write a file atomically, its checksum first; `check` as in `write_atomic`."""
    content = text.encode()
    entries = read_checksums(path.parent) or {}
    entries[path.name] = checksum(content)
    _write_entries(path.parent, entries, check)
    write_atomic(path, text, check=check)


def write_checksums(folder: Path) -> None:
    """Enter every file of a finished folder, once its bytes are on the disk."""
    entries = {}
    for path in sorted(folder.iterdir()):
        if path.name == CHECKSUMS or not path.is_file():
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        entries[path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    _write_entries(folder, entries)


@contextmanager
def write_folder(folder: Path, check: Callable[[], object] = bool) -> Iterator[Path]:
    """Give an empty folder to fill, which then takes the place of `folder`, with checksums.

    Before it does, `check` may raise: nothing is changed then.
    """
    partial, before = (
        folder.with_name(f".{folder.name}.{os.getpid()}.{what}part") for what in ("", "old.")
    )
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in filter(Path.is_file, partial.iterdir()):  # safetensors writes them 0600
            path.chmod(partial.stat().st_mode & 0o666)
        write_checksums(partial)
        _sync(partial)
        check()
        if folder.exists():
            os.replace(folder, before)
        os.replace(partial, folder)
        _sync(folder.parent)
    except OSError:
        check()
        raise
    finally:
        for path in (partial, before):
            shutil.rmtree(path, ignore_errors=True)


def read_checksums(folder: Path) -> dict[str, Any] | None:
    """Return the entries of a folder: {} where their file is corrupt, None where there is none."""
    try:
        entries = json.loads((folder / CHECKSUMS).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def is_complete(folder: Path, *, contents: bool = True) -> bool:
    """Whether a folder with checksums still holds every file that was entered.

    With `contents=False` only sizes are compared, which costs nothing for large weights.
    """
    return describe_incomplete(folder, contents=contents) is None


def describe_incomplete(folder: Path, *, contents: bool = True) -> str | None:
    """Return in words why a folder of weights cannot be trusted; None when it can."""
    entries = read_checksums(folder)
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not entries or not weights <= entries.keys():
        what = f"no {CHECKSUMS}" if entries is None else f"weights that are not in its {CHECKSUMS}"
        return f"has {what} and cannot be verified"
    for name, entry in entries.items():
        if reason := _describe_difference(folder / name, entry, contents):
            return f"is corrupt: {name} {reason}"
    return None


def describe_corruption(path: Path) -> str | None:
    """Return in words how a file differs from what was written; None when it does not."""
    entries = read_checksums(path.parent)
    if entries is None:
        return _describe_truncation(path)
    if path.name not in entries:
        return f"is not entered in its folder's {CHECKSUMS}, or that file is torn"
    return _describe_difference(path, entries[path.name], contents=True)


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk: after a power cut all of it is there, or nothing."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_entries(
    folder: Path, entries: dict[str, Any], check: Callable[[], object] = bool
) -> None:
    write_atomic(folder / CHECKSUMS, json.dumps(entries, indent=1) + "\n", check=check)


def _describe_truncation(path: Path) -> str | None:
    content = path.read_bytes()
    if path.suffix == ".jsonl":  # an empty one holds no records
        return "is cut off in the middle of a line" if content[-1:] not in (b"", b"\n") else None
    try:
        json.loads(content)
    except ValueError:
        return "is no whole JSON document"
    return None


def _describe_difference(path: Path, entry: Any, contents: bool) -> str | None:
    expected = entry.get("bytes") if isinstance(entry, dict) else entry  # or the size, long ago
    digest = entry.get("sha256") if isinstance(entry, dict) else None
    if not isinstance(expected, int) or not (isinstance(digest, str) or isinstance(entry, int)):
        return f"has no readable checksum in its folder's {CHECKSUMS}"
    try:
        size = path.stat().st_size
    except OSError:
        return "is not there"
    if size != expected:
        return f"has {size:,} bytes, and {expected:,} were written"
    if contents and digest is not None and hash_file(path) != digest:
        return "holds other bytes than were written"
    return None
