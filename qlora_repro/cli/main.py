"""The command, around Hydra: arguments, a sweep's cells, errors in one sentence, exit codes."""

import contextlib
import io
import os
import re
import shlex
import signal
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from packaging.requirements import Requirement

from qlora_repro.cli import processes
from qlora_repro.config.messages import explain_error
from qlora_repro.config.paths import PYPROJECT, set_user_config_dir
from qlora_repro.config.registry import WITHOUT_DOUBLE_QUANT
from qlora_repro.config.schema import RunConfig, setting_types
from qlora_repro.config.unread import unread_settings
from qlora_repro.config.validate import parse_config
from qlora_repro.console import open_closed_streams, print_error, say
from qlora_repro.distributed.environment import rank
from qlora_repro.errors import ConfigError, QloraError
from qlora_repro.records import FAILURES, CellState
from qlora_repro.store.provenance import installed_version
from qlora_repro.store.runs import read_note
from qlora_repro.sweep import cells
from qlora_repro.sweep.cells import CellRecord
from qlora_repro.sweep.replay import replay
from qlora_repro.sweep.run_cell import CellOutcome, run_cell
from qlora_repro.sweep.workers import Launch, set_up_worker, shut_down_workers

INTERRUPTED = 130  # the exit code that a shell expects after Ctrl-C


@dataclass
class ExitStatus:
    """The exit code of the command so far."""

    code: int = 0


def run_command(main: Callable[[], None]) -> int:
    """Run the command; return its exit code, and put what went wrong in one sentence on stderr.

    Args:
        main: Hydra's entry point, which calls `run_job` for each cell.
    """
    open_closed_streams()
    # Started in the background by a script, a process would ignore the signal and run on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_user_config_dir(sys.argv[1:])
    if rank() > 0:
        return processes.run_worker()
    with processes.coordinate(), report_errors() as status:
        check_versions()
        if "--replay" in sys.argv:
            replay(set_user_config_dir(sys.argv[1:]))
            return 0
        sys.argv[1:] = arrange_arguments(sys.argv[1:])
        launch = Launch()
        with compose_once():
            while not launch.done:
                with launch:
                    main()
    return status.code


@contextmanager
def report_errors() -> Iterator[ExitStatus]:
    """Print what the body raises as one sentence, and set the exit code."""
    status = ExitStatus()
    try:
        yield status
    except QloraError as error:
        message = str(error)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain_error(error, setting_types())
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        message = "a group takes the name of one option, as in train=none; --help lists them"
    except KeyboardInterrupt:
        print_error("interrupted; the same command goes on from the last checkpoint")
        sys.stdout.flush()
        processes.dismiss_workers()
        if not shut_down_workers():
            os._exit(INTERRUPTED)  # nothing is left to write; taking torch down takes seconds
        status.code = INTERRUPTED
        return
    else:
        return
    print_error(message)
    status.code = 1


def run_job(cfg: DictConfig) -> None:
    """Check and run the cell that Hydra composed. In a sweep its failure does not stop the others.

    Raises:
        SystemExit: With 1, when a cell that runs alone failed.
    """
    hydra = HydraConfig.get()
    overrides = cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))
    if hydra.mode == RunMode.MULTIRUN:
        folder = Path(hydra.sweep.dir)
        set_up_worker(folder)
        _run_sweep_cell(cfg, overrides, folder=folder, number=int(hydra.job.num))
        return
    try:
        run_cfg = _parse_config(cfg, written=cells.overridden_keys(overrides))
    except QloraError as error:
        outcome = CellOutcome(state=CellState.REFUSED, why=str(error))
    else:
        outcome = run_cell(run_cfg, rerun=cells.format_command(overrides))
    if outcome.state in FAILURES:
        _print_failure(outcome)
        raise SystemExit(1)


def _run_sweep_cell(cfg: DictConfig, overrides: list[str], *, folder: Path, number: int) -> None:
    """Run a cell, and leave what came of it in the sweep's folder."""
    record = CellRecord(
        number=number, overrides=overrides, state=CellState.REFUSED, why="", config=None
    )
    written = cells.overridden_keys(overrides)
    try:
        run_cfg = _parse_config(cfg, written=cells.required_keys(HydraConfig.get()) - {"dq"})
    except QloraError as error:
        outcome = CellOutcome(state=CellState.REFUSED, why=str(error))
        _print_failure(outcome, f"{record.title}: ")
        cells.write_record(folder, replace(record, why=outcome.why), name="refused")
        return
    name, read_overrides = cells.cell_identity(run_cfg), cells.drop_unread(overrides, run_cfg)
    record = replace(record, overrides=read_overrides, config=asdict(run_cfg))
    if why := _why_not_begun(run_cfg, folder):
        cells.write_record(folder, replace(record, state=CellState.NOT_BEGUN, why=why), name=name)
        return
    if any(int(path.name[:5]) < number for path in folder.glob(f"*-{name}.json")):
        say(f"\nfolded into an earlier cell{_why_folded(run_cfg, written)}")
        cells.write_record(folder, replace(record, state=CellState.FOLDED), name=name)
        return
    earlier = read_note(cells.record_path(folder, number, name=name)) or {}
    if earlier.get("state") == CellState.PROCESS_DIED:
        return  # it runs alone, after the others
    dropped = "dq" in written and cfg.dq and not run_cfg.dq
    remark = f" ({_why_without_dq(run_cfg)})" if dropped else ""
    say(f"\ncell {number + 1}: {' '.join(overrides)}{remark}")
    running = replace(record, state=CellState.RUNNING, why="its process was ended")
    cells.write_record(folder, running, name=name)
    # A search goes by the score of each of its cells, and so waits for one that another works on.
    waits = HydraConfig.get().runtime.choices["hydra/sweeper"] != "basic"
    outcome = run_cell(run_cfg, rerun=cells.format_command(read_overrides), wait=waits)
    if outcome.state == CellState.BUSY:
        say("another process is working on this cell; it is taken up again after the others")
    if outcome.state in FAILURES:
        _print_failure(outcome, f"{record.title}: ")
    cells.write_record(folder, replace(record, state=outcome.state, why=outcome.why), name=name)


def _parse_config(cfg: DictConfig, *, written: set[str]) -> RunConfig:
    processes.check_launcher()
    for group, option in HydraConfig.get().runtime.choices.items():
        if str(option).startswith("_"):
            raise ConfigError(f"{group}={option} is what its other options start from; choose one")
    return parse_config(cfg, written=written)


def _why_not_begun(cfg: RunConfig, folder: Path) -> str:
    """Return why a sweep does not begin another cell; empty where it does."""
    if processes.processes_lost():
        return "the processes lost each other in a cell before"
    records = cells.read_records(folder) if cfg.on_error == "stop" else []
    failed = any(record.state in FAILURES for record in records)
    return "on_error=stop: a cell failed before" if failed else ""


def _why_folded(cfg: RunConfig, written: set[str]) -> str:
    """Return which of the settings that a sweep varies makes no difference to this cell."""
    if "dq" in written and cfg.dtype.name in WITHOUT_DOUBLE_QUANT:
        return f": {_why_without_dq(cfg)}"
    if "lora" in written and cfg.full_finetuning:
        return ": full fine-tuning has no adapters to place"
    unread = unread_settings(cfg)
    names = sorted(written & unread.keys())
    return f": {names[0]} is not read with this {unread[names[0]]}" if names else ""


def _why_without_dq(cfg: RunConfig) -> str:
    return f"dq has no meaning for dtype={cfg.dtype.name}"


def _print_failure(outcome: CellOutcome, prefix: str = "") -> None:
    if processes.worker_reported():
        return
    if outcome.trace and outcome.unforeseen:
        sys.stderr.write(outcome.trace)
    print_error(" ".join(f"{prefix}{outcome.why}".split()))


def check_versions() -> None:
    """Refuse packages older than the lower bounds of pyproject.toml; raises ConfigError."""
    requirements = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    if sentence := describe_outdated(requirements):
        raise ConfigError(sentence)


def describe_outdated(requirements: Iterable[str]) -> str:
    """Return what is installed, what is needed and the command that helps; empty where all is well.

    Requirements without a bound are met by any version.

    >>> describe_outdated(["packaging>=1", "numpy"])
    ''
    >>> describe_outdated(["not_there>=2.1"])
    "not_there is not installed, and >=2.1 is needed; run pip install 'not_there>=2.1'"
    """
    outdated = []
    for requirement in map(Requirement, requirements):
        installed = installed_version(requirement.name)
        bound = requirement.specifier
        if bound and (installed is None or not bound.contains(installed, prereleases=True)):
            outdated.append((requirement.name, installed, str(bound)))
    if not outdated:
        return ""
    facts = [
        f"{name} {f'is {installed}' if installed else 'is not installed'}, and {bound} is needed"
        for name, installed, bound in outdated
    ]
    wanted = shlex.join(["pip", "install", *(f"{name}{bound}" for name, _, bound in outdated)])
    return f"{'; '.join(facts)}; run {wanted}"


def arrange_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the command line with its overrides before its flags, as Hydra wants them.

    Raises:
        ConfigError: For an unknown flag.

    >>> arrange_arguments(["model=tiny", "-m", "dtype=nf4,fp4"])
    ['model=tiny', 'dtype=nf4,fp4', '-m']
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            overrides = get_args_parser().parse_intermixed_args(list(arguments)).overrides
    except SystemExit as stop:
        if not stop.code:
            raise
        why = complaint.getvalue().strip().rpartition("error: ")[2]
        raise ConfigError(f"{why}; python run.py --help shows what can be written") from stop
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return [*map(quote_ids, overrides), *flags]


# A run's id that Hydra reads as a float, and so loses: one in 300 has digits around a single e.
FLOAT_LIKE_ID = re.compile(r"(?<![^=,\[\s])(?=[0-9]+e[0-9]+(?![^,\]\s]))[0-9e]{12}(?![0-9e])")


def quote_ids(override: str) -> str:
    """Return an override with its runs' ids in quotes; one with quotes in it is left as it is.

    >>> quote_ids("judge.run=30e123456789"), quote_ids("judge.opponent=[base,1e2345678901]")
    ("judge.run='30e123456789'", "judge.opponent=[base,'1e2345678901']")
    >>> quote_ids("judge.run=tiny-s0-30e123456789"), quote_ids("train.lr=1e-4")
    ('judge.run=tiny-s0-30e123456789', 'train.lr=1e-4')
    """
    quoted = "'" in override or '"' in override
    return override if quoted else FLOAT_LIKE_ID.sub(lambda match: f"'{match[0]}'", override)


@contextmanager
def compose_once() -> Iterator[None]:
    """Compose each cell of a sweep once, and read each file of conf/ once: Hydra cannot be told to.

    Hydra composes all cells before the first one runs, which refuses a mistake in any of them at
    once, and each again when it runs. Without this 100 finished cells take 74 s instead of 34 s. A
    launcher's workers compose for themselves.
    """
    compose, read = ConfigLoaderImpl.load_sweep_config, ConfigRepository.load_config
    check = Sweeper.validate_batch_is_legal
    composed: dict[tuple[str, ...], DictConfig] = {}
    files: dict[tuple[str, ...], ConfigResult | None] = {}

    def load_sweep_config(
        self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        cell = composed.pop(tuple(sweep_overrides), None)  # whoever runs it may change it
        return compose(self, master_config, sweep_overrides) if cell is None else cell

    def validate_batch_is_legal(self: Any, batch: Sequence[Sequence[str]]) -> None:
        for overrides in batch:
            cell = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            composed[tuple(overrides)] = cell

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        name = config_path, *(source.path for source in self.sources)
        if name not in files:
            files[name] = read(self, config_path)
        return deepcopy(files[name])  # composing changes it

    Sweeper.validate_batch_is_legal = validate_batch_is_legal  # type: ignore[method-assign]
    ConfigLoaderImpl.load_sweep_config = load_sweep_config  # type: ignore[method-assign]
    ConfigRepository.load_config = load_config  # type: ignore[method-assign]
    try:
        yield
    finally:
        Sweeper.validate_batch_is_legal = check  # type: ignore[method-assign]
        ConfigLoaderImpl.load_sweep_config = compose  # type: ignore[method-assign]
        ConfigRepository.load_config = read  # type: ignore[method-assign]
