"""A sweep: what came of each cell, on record in the sweep's folder, and the tables at its end.

Cells meet only on the disk, so a sweep may run in one process or in many: each cell leaves
`<number>-<identity>.json`, and `SweepReport`, a Hydra callback, reads them when all have returned.
It first runs again the cells that another process was working on.
"""

import json
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from qlora_repro.config.paths import config_dir_flags
from qlora_repro.config.schema import RunConfig, rebuild_config
from qlora_repro.config.unread import sections_read_by, unread_settings
from qlora_repro.console import print_error, say
from qlora_repro.memory.remaining_work import estimate_remaining_work
from qlora_repro.memory.tables import PlannedCell, build_sweep_table
from qlora_repro.pipeline import STAGES
from qlora_repro.records import FAILURES, UNFINISHED, CellState, MemoryPlan
from qlora_repro.reporting.run_table import CellResult
from qlora_repro.reporting.stored_result import describe_cell, load_result
from qlora_repro.reporting.sweep_table import SweepRow, build_failure_table, build_sweep_tables
from qlora_repro.store.cell import find_cell
from qlora_repro.store.integrity import write_atomic
from qlora_repro.store.run_id import stage_digest
from qlora_repro.store.runs import read_note
from qlora_repro.sweep.run_cell import run_cell

SETS_ANY_SECTION = {"experiments", "method", "scale"}  # groups whose options set other sections
# What describe_cell has of a cell's settings.
IN_LABEL = ("model", "dtype", "dq", "lora", "lora.target", "lora.r", "data", "seed")


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """What came of a cell, on the disk."""

    number: int  # from 0
    overrides: list[str]
    state: CellState
    why: str
    config: dict[str, Any] | None  # None for one whose settings were refused
    pid: int = field(default_factory=os.getpid)  # of the process that wrote it
    host: str = field(default_factory=socket.gethostname)

    @property
    def title(self) -> str:
        """Return the cell as errors name it."""
        return f"cell {self.number + 1} ({' '.join(self.overrides)})"

    @property
    def label(self) -> str:
        """Return the cell as tables describe it."""
        cfg = self.run_config
        return " ".join(self.overrides) if cfg is None else describe_cell(cfg)

    @property
    def run_config(self) -> RunConfig | None:
        """Return the checked configuration again."""
        return None if self.config is None else rebuild_config(self.config)


def cell_identity(cfg: RunConfig) -> str:
    """Return what two cells share exactly when they are one, whatever they do not read."""
    cfg = deepcopy(cfg)
    for name in unread_settings(cfg):
        section, _, field_name = name.partition(".")
        if "." not in field_name:
            setattr(getattr(cfg, section), field_name, None)
    return "".join(stage_digest(cfg, stage)[:6] for stage in STAGES)


def record_path(folder: Path, number: int, *, name: str) -> Path:
    """Return the file of a cell's record; `name` is its identity, or "refused"."""
    return folder / f"{number:05}-{name}.json"


def write_record(folder: Path, record: CellRecord, *, name: str) -> None:
    """Write what came of a cell so far."""
    write_atomic(record_path(folder, record.number, name=name), json.dumps(asdict(record)) + "\n")


def read_records(folder: Path) -> list[CellRecord]:
    """Return what came of each cell so far, in order."""
    notes = [read_note(path) for path in sorted(folder.glob("*-*.json"))]
    return [CellRecord(**n | {"state": CellState(n["state"])}) for n in notes if n is not None]


def format_command(overrides: Sequence[str]) -> str:
    """Return the command that runs one cell.

    >>> format_command(["model=tiny", "data.path=my rows.csv"])
    "python run.py model=tiny 'data.path=my rows.csv'"
    """
    return shlex.join(["python", "run.py", *config_dir_flags(), *overrides])


def rerun_commands(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the commands that run just these cells: one sweep where they are a whole grid.

    >>> rerun_commands([["seed=0", "dtype=nf4"], ["seed=1", "dtype=nf4"]])
    ['python run.py -m seed=0,1 dtype=nf4']
    """
    axes: dict[str, list[str]] = {}
    for override in [override for overrides in cells for override in overrides]:
        name, _, value = override.partition("=")
        values = axes.setdefault(name, [])
        if value not in values:
            values.append(value)
    grid = {tuple(values) for values in product(*axes.values())}
    asked = {tuple(override.partition("=")[2] for override in overrides) for overrides in cells}
    plain = all("," not in value for values in axes.values() for value in values if len(values) > 1)
    if len(cells) < 2 or not plain or prod(map(len, axes.values())) != len(asked) or grid != asked:
        return [format_command(overrides) for overrides in cells]
    return [format_command(["-m", *(f"{k}={','.join(v)}" for k, v in axes.items())])]


class SweepReport(Callback):
    """Ends a sweep: busy cells once more, the tables of results and failures, the exit code."""

    def __init__(self, command: Sequence[str]) -> None:
        """Take the overrides of the sweep, which Hydra resolved here for all of its cells."""
        self.command = command

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Run the busy cells again, show the tables; SystemExit with 1 when a cell failed."""
        folder = Path(str(config.hydra.sweep.dir))
        for record in read_records(folder):
            if record.state == CellState.BUSY:
                _run_again(folder, record)
        records = read_records(folder)
        show_sweep(records)
        if any(record.state in UNFINISHED for record in records):
            sys.stdout.flush()
            raise SystemExit(1)


def _run_again(folder: Path, record: CellRecord) -> None:
    cfg = record.run_config
    if cfg is None:
        return
    say(f"\ncell {record.number + 1} again, which another process was at: {record.label}")
    outcome = run_cell(cfg, rerun=format_command(record.overrides))
    if outcome.state in FAILURES:
        print_error(f"{record.title}: {outcome.why}")
    record = replace(record, state=outcome.state, why=outcome.why)
    write_record(folder, record, name=cell_identity(cfg))


def show_sweep(records: Sequence[CellRecord]) -> None:
    """Show the results of a sweep's cells, then what failed and how to run just that again."""
    cells = [record for record in records if record.state != CellState.FOLDED]
    if len(cells) < 2:
        return
    labels, plain = label_cells(cells), [record.label for record in cells]
    _show_plans(plain if len(set(plain)) == len(plain) else labels, cells)
    rows = [
        SweepRow(r.number + 1, label, r.state, r.why, r.run_config, _load_result(r))
        for label, r in zip(labels, cells, strict=True)
    ]
    if any(row.result is not None for row in rows):
        for table in build_sweep_tables(rows):
            say(table)
    unfinished = (*UNFINISHED, CellState.NOT_BEGUN)
    failed = [record for record in cells if record.state in unfinished]
    if failed:
        say(build_failure_table([row for row in rows if row.state in unfinished]))
        print_error(
            f"{len(failed)} of {len(cells)} cells failed or were not run; to run just those:"
        )
        for command in rerun_commands([record.overrides for record in failed]):
            print(f"  {command}", file=sys.stderr)  # noqa: T201  # to be copied, whatever its width


def label_cells(records: Sequence[CellRecord]) -> list[str]:
    """Return a label a cell, with the settings in which cells differ that labels leave out."""
    differing = {
        override.partition("=")[0]
        for record in records
        for override in record.overrides
        if any(override not in other.overrides for other in records)
    }
    labels = []
    for record in records:
        added = [o for o in record.overrides if o.partition("=")[0] in differing - {*IN_LABEL}]
        if record.config is None or not added:
            labels.append(record.label)
            continue
        head, separator, seed = record.label.rpartition(", seed ")
        labels.append(", ".join([head or seed, *added]) + (separator + seed if separator else ""))
    return labels


def _load_result(record: CellRecord) -> CellResult | None:
    cfg = record.run_config
    pending = (*UNFINISHED, CellState.NOT_BEGUN, CellState.BUSY)
    if cfg is None or "plan" in cfg.stages or record.state in pending:
        return None
    return load_result(find_cell(cfg))


def _show_plans(labels: Sequence[str], records: Sequence[CellRecord]) -> None:
    cells: list[PlannedCell] = []
    for label, record in zip(labels, records, strict=True):
        cfg = record.run_config
        if cfg is None or "plan" not in cfg.stages:
            continue
        folder = find_cell(cfg).folder
        name = f"plan-{stage_digest(cfg, 'plan')}.jsonl"
        if folder.has(name):
            (memory,) = folder.read_records(name, MemoryPlan)
            work = estimate_remaining_work(cfg)
            cells.append(PlannedCell(label=label, cfg=cfg.plan, memory=memory, work=work))
    if len(cells) > 1:
        say(build_sweep_table(cells))


def overridden_keys(overrides: Sequence[str]) -> set[str]:
    """Return the settings that the user wrote."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {str(override.key_or_group) for override in parsed}


def required_keys(hydra: Any) -> set[str]:
    """Return the settings on a sweep's command line that every cell must read.

    Those whose readers an axis chooses are read by some cells only.
    """
    params = [f"{name}={value}" for name, value in (hydra.sweeper.params or {}).items()]
    command = list(hydra.callbacks.sweep.command)
    parsed = OverridesParser.create().parse_overrides([*params, *command])
    axes = {override.key_or_group for override in parsed if override.is_sweep_override()}
    if axes & SETS_ANY_SECTION:
        return set()
    chosen = axes | {section for axis in axes for section in sections_read_by(axis)}
    return {key for key in overridden_keys(command) if key.partition(".")[0] not in chosen}


def drop_unread(overrides: Sequence[str], cfg: RunConfig) -> list[str]:
    """Return a cell's overrides without those that it does not read, which alone are refused."""
    unread = {*unread_settings(cfg), *([] if cfg.dq else ["dq"])}
    return [override for override in overrides if not overridden_keys([override]) & unread]
