"""Checkpoints that are whole or ignored, and the adapter that a run publishes."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro.console import note
from qlora_repro.distributed.environment import processes, rank
from qlora_repro.errors import RunError
from qlora_repro.store.integrity import mark, whole

CHECKPOINTS = "checkpoints"  # beside what a run publishes
FULL = (errno.ENOSPC, errno.EDQUOT)
CUT_SHORT = ("PytorchStreamWriter", "file write failed", "iostream error", "unexpected pos")


def step_of(checkpoint: Path) -> int:
    """Return the step that a folder `checkpoint-<step>` was written at."""
    return int(checkpoint.name.rpartition("-")[2])


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint to go on from; one that is torn is named and passed over."""
    for path in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        if whole(path):
            return path
        note(f"{path} is torn; training does not go on from it")
    return None


class KeepWhole(TrainerCallback):
    """Mark each checkpoint once it is on the disk, and only then delete older ones."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sync the files, write the mark, prune: on rank 0, once each rank has written its own."""
        if processes() > 1:
            distributed.barrier()
        if rank() > 0:
            return
        mark(self.folder / f"checkpoint-{state.global_step}")
        ranked = sorted(self.folder.glob("checkpoint-*"), key=step_of, reverse=True)
        for old in [path for path in ranked if whole(path, contents=False)][self.keep :]:
            shutil.rmtree(old)


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Word the many ways in which libraries say that a disk is full; RunError names what is kept.

    A checkpoint that was cut off is deleted: it cannot be used, and it takes up space.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in FULL or "No space left" in str(error)
        short = any(word in str(error) for word in CUT_SHORT)
        there = folder if folder.exists() else folder.parent
        if not full and not (short and shutil.disk_usage(there).free < 1 << 20):
            raise
        _say_full(folder, error)
    except Exception as error:  # safetensors raises a class of its own
        if type(error).__name__ != "SafetensorError" or "No space left" not in str(error):
            raise
        _say_full(folder, error)


def _say_full(folder: Path, error: Exception) -> None:
    last = newest_whole_checkpoint(folder)
    kept = "no checkpoint was whole yet" if last is None else f"step {step_of(last)} is kept"
    for path in folder.glob("checkpoint-*"):
        if not whole(path):
            shutil.rmtree(path)
    raise RunError(
        f"the disk under {folder} is full; {kept}; free some space and run the same command again"
    ) from error


def publish(save: Any, folder: Path) -> None:
    """Write a folder whole or not at all: `save` fills one beside it, which then moves."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        with naming_full_disk(folder.parent / CHECKPOINTS):
            save(beside)
            mark(beside)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
