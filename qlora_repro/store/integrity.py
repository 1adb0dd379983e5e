"""What a folder vouches for: size and sha256 of its files, so that a torn one is known.

Every folder that holds results has a `whole.json`: {name: {"bytes": size, "sha256": digest}}. A run
enters each record there before it is written, so that no file is ever older than its entry; a
checkpoint or an adapter is entered as a whole, after its files are on the disk. A file that is not
what its entry says, cut off at whatever byte, does not count. In a folder without `whole.json`, as
of an older store, records count when they end with the end of a line, a document when it is whole.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MARK = "whole.json"


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there completely or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with name.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_vouched(path: Path, text: str) -> None:
    """Write a file whole, entered in its folder's `whole.json` first."""
    content = text.encode()
    entries = entered(path.parent) or {}
    entries[path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_whole(path.parent / MARK, json.dumps(entries, indent=1) + "\n")
    write_whole(path, text)


def mark(folder: Path) -> None:
    """Enter every file of a finished folder, once its bytes are on the disk."""
    entries = {}
    for path in sorted(folder.iterdir()):
        if path.name == MARK or not path.is_file():
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entries[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    write_whole(folder / MARK, json.dumps(entries, indent=1) + "\n")


def entered(folder: Path) -> dict[str, Any] | None:
    """Return what a folder vouches for; nothing where that is torn itself, None without a mark."""
    try:
        found = json.loads((folder / MARK).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def whole(folder: Path, *, contents: bool = True) -> bool:
    """Whether a marked folder still holds every file that was entered.

    With `contents=False` sizes are compared alone, which costs nothing for large weights.
    """
    entries = entered(folder)
    if not entries:
        return False
    return all(_why_torn(folder / name, entry, contents) is None for name, entry in entries.items())


def torn(path: Path) -> str | None:
    """Return how a record file differs from what was written, in words; None when it is whole."""
    entries = entered(path.parent)
    if entries is None:
        return _why_cut(path)
    if path.name not in entries:
        return f"is not entered in its folder's {MARK}, or that file is torn"
    return _why_torn(path, entries[path.name], contents=True)


def _why_cut(path: Path) -> str | None:
    content = path.read_bytes()
    if path.suffix == ".jsonl":  # an empty one holds no records
        return "is cut off in the middle of a line" if content[-1:] not in (b"", b"\n") else None
    try:
        json.loads(content)
    except ValueError:
        return "is no whole JSON document"
    return None


def _why_torn(path: Path, entry: Any, contents: bool) -> str | None:
    size = entry["bytes"] if isinstance(entry, dict) else entry  # older checkpoints: the size
    try:
        there = path.stat().st_size
    except OSError:
        return "is not there"
    if there != size:
        return f"has {there:,} bytes, and {size:,} were written"
    if contents and isinstance(entry, dict):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                return "holds other bytes than were written"
    return None
