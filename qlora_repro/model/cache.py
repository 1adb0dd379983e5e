"""Checkpoints that are made once on a machine, complete or not at all, and then only read."""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from qlora_repro.errors import ModelError
from qlora_repro.store.integrity import write_folder


def cache_root() -> Path:
    """Return the folder of converted and random checkpoints in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "qlora_repro"


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cache folder `name`; when it is not there, let `build` fill an empty folder first.

    The folder appears under its name only when it is complete. Of several processes one builds and
    the others wait.

    Raises:
        ModelError: the cache cannot be written.
    """
    folder = cache_root() / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name}.lock")):
            if not folder.is_dir():  # another process may have built it while this one waited
                with write_folder(folder) as partial:
                    build(partial)
    except OSError as error:
        raise ModelError(
            f"the model cache {folder.parent} cannot be written ({error.strerror or error}); free "
            "space there, or set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return folder
