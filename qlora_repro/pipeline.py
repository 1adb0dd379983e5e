"""The path of a cell: its stages in order, once for the untuned model and once for the tuned one.

Stages meet only in the store: each looks there first, and what is finished is not done again. A
stage is one file in `stages/` and one line of `STAGES`. Importing this module is cheap: torch and
the rest are imported when a stage runs.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, say
from qlora_repro.errors import ConfigError
from qlora_repro.reporting.run_table import CellResult, show_result
from qlora_repro.reporting.stored_result import (
    describe_cell,
    load_result,
    note_versions,
    write_summary,
)
from qlora_repro.store.cell import find_cell
from qlora_repro.store.run_id import deciding_settings
from qlora_repro.store.runs import open_store

# The names that `stages` may have, in the order in which a cell goes through them, and where each
# stage is. For a stage X its module has `check_X(cell)`, which refuses what cannot work before
# anything slow begins, and `run_X(run, tuned=...)`; where processes compute together, also
# `work_X(session, tuned=...)`, which is what the workers do. `plan` stands apart, as it loads
# nothing: `check_plan(cfg)` and `run_plan(cfg)`.
STAGES = {
    "plan": "qlora_repro.stages.plan",
    "measure": "qlora_repro.stages.measure",
    "train": "qlora_repro.stages.train",
    "eval": "qlora_repro.stages.evaluate",
    "generate": "qlora_repro.stages.generate",
    "judge": "qlora_repro.stages.judge",
}


def get_stage_function(action: str, stage: str) -> Callable[..., Any]:
    """Return a stage's function: check, run or work."""
    function: Callable[..., Any] = getattr(import_module(STAGES[stage]), f"{action}_{stage}")
    return function


def check_stages(cfg: RunConfig) -> None:
    """Refuse an empty list of stages and a stage that there is not; ConfigError."""
    if not cfg.stages:
        raise ConfigError(
            f"stages is empty; write stages=[train,eval], or some of {', '.join(STAGES)}"
        )
    for stage in cfg.stages:
        if stage not in STAGES:
            raise ConfigError(f"stages has {stage!r}, and knows only {', '.join(STAGES)}")


def run_stages(cfg: RunConfig, *, wait: bool = True) -> CellResult:
    """Run one cell's stages, show the table at the end, and return what it shows.

    Args:
        cfg: A checked configuration.
        wait: Whether to wait while another process works on the same cell.

    Raises:
        Busy: When another process works on the cell, and it is not to be waited for.
        QloraError: For whatever else stops a stage.
    """
    # torch and transformers take seconds, and a cell that the store has does without them
    from qlora_repro.model.library_logging import silence_deprecations
    from qlora_repro.session import CellRun, ModelSession
    from qlora_repro.stages.merge import run_merge
    from qlora_repro.train.callbacks import open_tracker

    cell = find_cell(cfg, open_store(cfg.results_dir, warn=note))
    folder = cell.folder.path
    say(describe_cell(cfg))
    note_versions(cell)
    tracking = open_tracker(
        cfg.tracker, name=folder.name, config=deciding_settings(cfg, "train"), folder=folder
    )
    with (
        ModelSession(cfg, folder) as session,
        silence_deprecations(),
        cell.locked(wait=wait),
        tracking as tracker,
    ):
        run = CellRun(cell, session, tracker)
        stages = [stage for stage in STAGES if stage in cfg.stages]
        for stage in stages:
            get_stage_function("check", stage)(cell)
        for tuned in (False, True) if cell.trains else (False,):
            for stage in stages:
                run_stage = get_stage_function("run", stage)
                run_stage(run, tuned=tuned)
        if cfg.merge and cell.trains:
            run_merge(session, cell.folder.check_held)
        result = load_result(cell, win_rates=run.win_rates)
        for when, scores in (("before", result.before), ("after", result.after)):
            for metric in scores.metrics if scores else []:
                if metric.value is not None:
                    tracker.log({f"{when}/{metric.task}/{metric.name}": metric.value})
        write_summary(cell, result)
    show_result(result)
    return result
