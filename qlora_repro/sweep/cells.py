"""A sweep: what came of each cell, kept in the sweep's own folder, and the tables at its end.

Cells meet only on the disk, so a sweep may run in one process or in many: each cell leaves
`<number>-<identity>.json`, and `Report`, a Hydra callback, reads them when all have returned. It
first goes back to the cells that another process was at work on.
"""

import json
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from qlora_repro.config import validate
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import say, sentence
from qlora_repro.memory.remaining_work import Todo, todo
from qlora_repro.memory.tables import PlannedCell, sweep_table
from qlora_repro.records import MemoryPlan
from qlora_repro.reporting.run_table import CellResult
from qlora_repro.reporting.stored_result import describe, result
from qlora_repro.reporting.sweep_table import failures, sweep_tables
from qlora_repro.store.cell import find_cell
from qlora_repro.store.integrity import write_whole
from qlora_repro.store.progress import read_note
from qlora_repro.store.run_id import key
from qlora_repro.sweep.run_cell import BAD, BUSY, attempt

RUNNING, FOLDED, STOPPED = "running", "folded", "not begun"
ENDED = "ended"  # its process died: it is kept for the end of the sweep
STAGES = ("train", "eval", "generate", "judge", "measure", "plan")


def sweep_id() -> str:
    """Return a name for a sweep's folder that no other sweep has."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{os.getpid()}"


OmegaConf.register_new_resolver("sweep_id", sweep_id, use_cache=True, replace=True)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came of a cell, on the disk."""

    number: int  # from 0
    words: list[str]  # its overrides
    state: str
    why: str
    config: dict[str, Any] | None  # None for one whose settings were refused
    pid: int = field(default_factory=os.getpid)  # of the process that wrote it
    host: str = field(default_factory=socket.gethostname)

    @property
    def label(self) -> str:
        """Return the cell in words."""
        return " ".join(self.words) if self.run_config is None else describe(self.run_config)

    @cached_property
    def run_config(self) -> RunConfig | None:
        """The checked configuration again."""
        return None if self.config is None else validate.again(self.config)


def identity(cfg: RunConfig) -> str:
    """Return what two cells share exactly when they are one."""
    return "".join(key(cfg, stage)[:6] for stage in STAGES)


def place(folder: Path, number: int, *, name: str) -> Path:
    """Return the file of what came of a cell."""
    return folder / f"{number:05}-{name}.json"


def keep(folder: Path, record: Record, *, name: str) -> None:
    """Write what came of a cell, or is coming."""
    write_whole(place(folder, record.number, name=name), json.dumps(asdict(record)) + "\n")


def records(folder: Path) -> list[Record]:
    """Return what came of each cell so far, in order."""
    notes = [read_note(path) for path in sorted(folder.glob("*-*.json"))]
    return [Record(**note) for note in notes if note is not None]


def command_of(words: Sequence[str]) -> str:
    """Return the command that runs one cell.

    >>> command_of(["model=tiny", "data.path=my rows.csv"])
    "python run.py model=tiny 'data.path=my rows.csv'"
    """
    return shlex.join(["python", "run.py", *words])


def rerun_commands(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the commands that run just these cells: one sweep where they are a whole grid.

    >>> rerun_commands([["seed=0", "dtype=nf4"], ["seed=1", "dtype=nf4"]])
    ['python run.py -m seed=0,1 dtype=nf4']
    """
    axes: dict[str, list[str]] = {}
    for word in [word for words in cells for word in words]:
        name, _, value = word.partition("=")
        values = axes.setdefault(name, [])
        if value not in values:
            values.append(value)
    grid = {tuple(values) for values in product(*axes.values())}
    found = {tuple(word.partition("=")[2] for word in words) for words in cells}
    plain = all("," not in value for values in axes.values() for value in values if len(values) > 1)
    if len(cells) < 2 or not plain or prod(map(len, axes.values())) != len(found) or grid != found:
        return [command_of(words) for words in cells]
    return [
        shlex.join(["python", "run.py", "-m", *(f"{k}={','.join(v)}" for k, v in axes.items())])
    ]


class Report(Callback):
    """Ends a sweep: busy cells once more, the tables of results and failures, the exit code."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the busy cells up again, show the tables; SystemExit with 1 when a cell failed."""
        folder = Path(str(config.hydra.sweep.dir))
        done = records(folder)
        busy = [record for record in done if record.state == BUSY]
        for record in busy:
            if record.run_config is not None:
                self._again(folder, record, record.run_config)
        done = records(folder) if busy else done
        show(done)
        bad = [record for record in done if record.state in BAD or record.state in (RUNNING, ENDED)]
        if bad:
            sys.stdout.flush()
            raise SystemExit(1)

    def _again(self, folder: Path, record: Record, cfg: RunConfig) -> None:
        say(f"\ncell {record.number + 1} again, which another process was at: {record.label}")
        outcome = attempt(cfg, rerun=command_of(record.words))
        if outcome.state in BAD:
            sentence(f"cell {record.number + 1} ({' '.join(record.words)}): {outcome.why}")
        changed = asdict(record) | {"state": outcome.state, "why": outcome.why}
        keep(folder, Record(**changed), name=identity(cfg))


def show(done: Sequence[Record]) -> None:
    """Show the results of a sweep's cells, then what failed and how to run just that again."""
    shown = [record for record in done if record.state != FOLDED]
    if len(shown) < 2:
        return
    configs = [record.run_config for record in shown]
    labels = labelled(shown)
    plain = [record.label for record in shown]
    distinct = len(set(plain)) == len(plain)
    _show_plans(list(zip(plain if distinct else labels, configs, strict=True)))
    found = [_result(cfg, r.state) for r, cfg in zip(shown, configs, strict=True)]
    states = [record.state for record in shown]
    rows = list(zip(labels, states, configs, found, strict=True))
    if any(found is not None for *_, found in rows):
        for table in sweep_tables(rows):
            say(table)
    bad = [record for record in shown if record.state in (*BAD, RUNNING, ENDED, STOPPED)]
    if bad:
        named = dict(zip((r.number for r in shown), labels, strict=True))
        say(failures([(r.number + 1, named[r.number], r.state, r.why) for r in bad]))
        sentence(f"{len(bad)} of {len(shown)} cells failed or were not run; to run just those:")
        for command in rerun_commands([record.words for record in bad]):
            print(f"  {command}", file=sys.stderr)  # noqa: T201  # to be copied, whatever its width


def labelled(shown: Sequence[Record]) -> list[str]:
    """Return each cell in words, with the settings in which cells differ that words leave out."""
    said = ("model", "dtype", "dq", "lora", "lora.target", "lora.r", "data", "seed")
    differing = {
        word.partition("=")[0]
        for record in shown
        for word in record.words
        if any(word not in other.words for other in shown)
    }
    labels = []
    for record in shown:
        more = [w for w in record.words if w.partition("=")[0] in differing - {*said}]
        cfg = record.run_config
        head, seed = record.label, ""
        if cfg is not None and more:
            head, seed, number = record.label.rpartition(", seed ")
            head, seed = (head, seed + number) if seed else (number, "")
        labels.append(", ".join([head, *more]) + seed if cfg is not None else head)
    return labels


def _result(cfg: RunConfig | None, state: str) -> CellResult | None:
    if cfg is None or "plan" in cfg.stages or state in (*BAD, RUNNING, ENDED, STOPPED, BUSY):
        return None
    return result(find_cell(cfg))


def _show_plans(labelled_cells: Sequence[tuple[str, RunConfig | None]]) -> None:
    plans: list[MemoryPlan] = []
    todos: list[Todo] = []
    cells: list[PlannedCell] = []
    for label, cfg in labelled_cells:
        if cfg is None or "plan" not in cfg.stages:
            continue
        folder = find_cell(cfg).folder
        name = f"plan-{key(cfg, 'plan')}.jsonl"
        if folder.has(name):
            plans += folder.read(name, MemoryPlan)
            todos.append(todo(cfg))
            cells.append(PlannedCell(label=label, plan=cfg.plan))
    if len(plans) > 1:
        say(sweep_table(plans, todos, cells))


def overridden(words: Sequence[str]) -> set[str]:
    """Return the settings that the user wrote."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    return {str(override.key_or_group) for override in parsed}
