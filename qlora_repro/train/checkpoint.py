"""Checkpoints that are complete or ignored, and folders written whole or not at all."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import distributed
from transformers import TrainerCallback, TrainerState

from qlora_repro.console import note
from qlora_repro.distributed.environment import rank, world_size
from qlora_repro.errors import RunError
from qlora_repro.store.integrity import (
    describe_incomplete,
    is_complete,
    write_checksums,
    write_folder,
)

CHECKPOINTS = "checkpoints"  # beside what a run publishes
RUN_NAME = "run.txt"  # in a checkpoint: the folder of the run that wrote it
FULL_DISK_CODES = (errno.ENOSPC, errno.EDQUOT)
# What libraries say of a file that was cut off, whatever the reason.
CUT_OFF = ("PytorchStreamWriter", "file write failed", "iostream error", "unexpected pos")


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step that a folder `checkpoint-<step>` was written at."""
    return int(checkpoint.name.rpartition("-")[2])


def list_checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, the newest first."""
    return sorted(folder.glob("checkpoint-*"), key=checkpoint_step, reverse=True)


def find_newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; a corrupt one is named and passed over."""
    for path in list_checkpoints(folder):
        reason = describe_incomplete(path) or _describe_other_run(path)
        if reason is None:
            return path
        note(f"{path} {reason}; training does not go on from it")
    return None


def _describe_other_run(checkpoint: Path) -> str | None:
    """Return in words that another run wrote a checkpoint; None where not, or it is not known."""
    name = checkpoint / RUN_NAME
    writer = name.read_text(encoding="utf-8") if name.exists() else None
    if writer in (None, checkpoint.parent.parent.name):
        return None
    return f"was written by {writer}, whose folder was renamed or swapped"


class CheckpointRotation(TrainerCallback):
    """Mark each checkpoint as complete once it is on the disk, and only then delete older ones.

    Before a checkpoint is written and before it is marked, `check` may raise, as it does where
    another process took the run over.
    """

    def __init__(self, folder: Path, *, keep: int, check: Callable[[], object] = bool) -> None:
        self.folder = folder
        self.keep = keep
        self.check = check

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Ask whether the run is still this process's."""
        self.check()

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Sync, mark and prune: on rank 0, once every rank has written its part."""
        if world_size() > 1:
            distributed.barrier()
        if rank() > 0:
            return
        self.check()
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        (checkpoint / RUN_NAME).write_text(self.folder.parent.name, encoding="utf-8")
        write_checksums(checkpoint)
        complete = [
            path for path in list_checkpoints(self.folder) if is_complete(path, contents=False)
        ]
        for path in complete[self.keep :]:
            shutil.rmtree(path)


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Raise one RunError for the many ways in which libraries say that a disk is full.

    A checkpoint that was cut off is deleted: it cannot be used, and it takes up space.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_disk_full(error, folder):
            raise
        newest = find_newest_checkpoint(folder)
        for path in list_checkpoints(folder):
            if not is_complete(path):
                shutil.rmtree(path)
        state = (
            "no checkpoint was complete yet"
            if newest is None
            else f"step {checkpoint_step(newest)} is kept"
        )
        raise RunError(
            f"the disk under {folder} is full; {state}; free some space and run the same command "
            "again"
        ) from error


def _is_disk_full(error: Exception, folder: Path) -> bool:
    message = str(error)
    if getattr(error, "errno", None) in FULL_DISK_CODES or "No space left" in message:
        return True
    existing = folder if folder.exists() else folder.parent
    return any(word in message for word in CUT_OFF) and shutil.disk_usage(existing).free < 1 << 20


def save_atomically(
    save: Callable[[Path], object], folder: Path, check: Callable[[], object] = bool
) -> None:
    """Write a folder whole or not at all: `save` fills one beside it, which moves after `check`."""
    with explain_full_disk(folder.parent / CHECKPOINTS), write_folder(folder, check) as part:
        save(part)
