"""One cell, tried: read from the store or run, and whatever stops it put in words and on record."""

import errno
import gc
import traceback
from dataclasses import dataclass
from functools import cache
from typing import Any

from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note
from qlora_repro.errors import (
    Busy,
    ConfigError,
    DataError,
    LackOfMemory,
    ModelError,
    QloraError,
    StoreError,
)
from qlora_repro.records import MemoryPlan
from qlora_repro.reporting.run_table import CellResult, show
from qlora_repro.reporting.stored_result import skipped
from qlora_repro.store.cell import find_cell
from qlora_repro.store.progress import write_failure
from qlora_repro.store.runs import open_store

DONE, SKIPPED, BUSY, REFUSED, FAILED, OOM = (
    *("done", "in the store", "busy", "refused", "failed", "out of memory"),
)
BAD = (REFUSED, FAILED, OOM)
LACK = ("out of memory", "can't allocate memory", "Cannot allocate memory")
BEFORE_WORK = (ConfigError, DataError, ModelError, StoreError)  # nothing was computed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a cell."""

    state: str
    why: str = ""  # one sentence; empty where nothing went wrong
    trace: str = ""  # the traceback; empty for what was refused
    unforeseen: bool = False  # nobody thought of this error: its traceback is shown
    result: CellResult | None = None
    plan: MemoryPlan | None = None


def attempt(cfg: RunConfig, *, rerun: str, wait: bool = True) -> Outcome:
    """Run a checked cell, or read it from the store; never raises but for an interruption.

    A cell that another process works on is waited for, or without `wait` is BUSY. One that failed
    leaves its reason and traceback in its own folder, beside `rerun`, the command that repeats it;
    one that was refused before any work leaves nothing.
    """
    try:
        return _run(cfg, wait=wait)
    except Busy as error:
        return Outcome(state=BUSY, why=str(error))
    except Exception as error:  # noqa: BLE001  # one cell's failure must not end the others
        failed = worded(error)
    gc.collect()  # the frames of the error held its model
    if failed.state != REFUSED:
        _record(cfg, failed, rerun=rerun)
    return failed


def _run(cfg: RunConfig, *, wait: bool) -> Outcome:
    store = open_store(cfg.results_dir, told=note)  # refused now, and not after the slow imports
    if "plan" in cfg.stages:  # and none of the rest: it must not import torch
        from qlora_repro.stages.plan import plan

        return Outcome(state=DONE, plan=plan(cfg))
    cell = find_cell(cfg, store)
    if not cell.missing():
        found = skipped(cell)
        show(found)
        return Outcome(state=SKIPPED, result=found)
    return Outcome(state=DONE, result=_pipeline().run(cfg, wait=wait))


@cache
def _pipeline() -> Any:
    """Import torch and all, once it is needed.

    Nothing of what the imports leave is ever let go, and a collection after each cell need not look
    at it: that would take longer than all else that a cell of a small model costs beside training.
    """
    from qlora_repro import pipeline

    gc.freeze()
    return pipeline


def worded(error: Exception) -> Outcome:
    """Return what to say of an error, and what state it leaves a cell in."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, BEFORE_WORK):
        return Outcome(state=REFUSED, why=_line(error))
    if isinstance(error, LackOfMemory):
        return Outcome(state=OOM, why=_line(error), trace=trace)
    if isinstance(error, QloraError):
        return Outcome(state=FAILED, why=_line(error), trace=trace)
    why = from_the_machine(error)
    if why is not None:
        state = OOM if why.startswith("out of memory") else FAILED
        return Outcome(state=state, why=why, trace=trace)
    return Outcome(
        state=FAILED, why=f"{type(error).__name__}: {_line(error)}", trace=trace, unforeseen=True
    )


def _record(cfg: RunConfig, failed: Outcome, *, rerun: str) -> None:
    try:
        folder = find_cell(cfg).folder.path
        write_failure(folder, state=failed.state, why=failed.why, trace=failed.trace, rerun=rerun)
    except (OSError, QloraError) as error:
        note(f"the failure could not be written down either: {error}")


def from_the_machine(error: Exception) -> str | None:
    """Return the sentence for a full disk or too little memory, wherever it struck; else None."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while {error.filename} was written" if error.filename else ""
        return f"the disk is full{where}; free some space and run the same command again"
    # by name: torch, which has one of the two, is not imported here
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    if named or (isinstance(error, RuntimeError) and any(word in str(error) for word in LACK)):
        return (
            f"out of memory ({_line(error)}); lower eval.batch_size, generate.batch_size or "
            "max_new_tokens, or choose a smaller model or dtype=nf4"
        )
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__
