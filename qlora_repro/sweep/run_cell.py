"""One cell: read from the store or run; what stops it becomes one sentence and a record."""

import errno
import gc
import traceback
from dataclasses import dataclass

from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note
from qlora_repro.errors import (
    Busy,
    ConfigError,
    DataError,
    ModelError,
    OutOfMemory,
    QloraError,
    StoreError,
    Superseded,
    is_out_of_memory,
)
from qlora_repro.pipeline import check_stages, run_stages
from qlora_repro.records import CellState, MemoryPlan
from qlora_repro.reporting.run_table import CellResult
from qlora_repro.reporting.stored_result import report_stored
from qlora_repro.stages.plan import run_plan
from qlora_repro.store.cell import find_cell
from qlora_repro.store.runs import open_store

REFUSALS = (ConfigError, DataError, ModelError, StoreError)  # nothing was computed


@dataclass(frozen=True, kw_only=True)
class CellOutcome:
    """How a cell ended."""

    state: CellState
    why: str = ""  # one sentence; empty where nothing went wrong
    trace: str = ""  # the traceback; empty for what was refused
    unforeseen: bool = False  # nobody thought of this error: its traceback is shown
    result: CellResult | None = None
    plan: MemoryPlan | None = None


def run_cell(cfg: RunConfig, *, rerun: str, wait: bool = True) -> CellOutcome:
    """Run a checked cell, or read it from the store; never raises but for an interruption.

    A cell that failed leaves the reason and the traceback in its own folder. One that was refused
    before any work leaves nothing.

    Args:
        cfg: The checked configuration.
        rerun: The command that runs the cell again, for its record.
        wait: Whether to wait while another process works on the cell; else it is BUSY.
    """
    try:
        check_stages(cfg)
        store = open_store(cfg.results_dir, warn=note)  # refused now, not after the slow imports
        if "plan" in cfg.stages:
            return CellOutcome(state=CellState.DONE, plan=run_plan(cfg))
        cell = find_cell(cfg, store)
        cell.check_folders()
        if not cell.missing_stages():
            cell.forget_failure()
            return CellOutcome(state=CellState.IN_STORE, result=report_stored(cell))
        return CellOutcome(state=CellState.DONE, result=run_stages(cfg, wait=wait))
    except (Busy, Superseded) as error:  # the run, and the note of its failure, are another's
        return CellOutcome(state=CellState.BUSY, why=str(error))
    except Exception as error:  # noqa: BLE001  # one cell's failure must not end the others
        outcome = describe_error(error)
    gc.collect()  # the frames of the error held its model
    if outcome.state != CellState.REFUSED:
        _write_failure(cfg, outcome, rerun=rerun)
    return outcome


def describe_error(error: Exception) -> CellOutcome:
    """Return the sentence for an error, and the state in which it leaves a cell."""
    if isinstance(error, REFUSALS):
        return CellOutcome(state=CellState.REFUSED, why=_join_lines(error))
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, QloraError):
        out_of_memory = isinstance(error, OutOfMemory)
        state = CellState.OUT_OF_MEMORY if out_of_memory else CellState.FAILED
        return CellOutcome(state=state, why=_join_lines(error), trace=trace)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        during = f" while {error.filename} was written" if error.filename else ""
        why = f"the disk is full{during}; free some space and run the same command again"
        return CellOutcome(state=CellState.FAILED, why=why, trace=trace)
    if is_out_of_memory(error):
        why = (
            f"out of memory ({_join_lines(error)}); lower eval.batch_size, generate.batch_size or "
            "max_new_tokens, or choose a smaller model or dtype=nf4"
        )
        return CellOutcome(state=CellState.OUT_OF_MEMORY, why=why, trace=trace)
    why = f"{type(error).__name__}: {_join_lines(error)}"
    return CellOutcome(state=CellState.FAILED, why=why, trace=trace, unforeseen=True)


def _write_failure(cfg: RunConfig, outcome: CellOutcome, *, rerun: str) -> None:
    try:
        find_cell(cfg).folder.write_failure(
            state=outcome.state, reason=outcome.why, trace=outcome.trace, rerun=rerun
        )
    except (OSError, QloraError) as error:
        note(f"the failure could not be written down either: {error}")


def _join_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__
