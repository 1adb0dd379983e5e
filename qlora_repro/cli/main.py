"""Are the installed packages new enough? Asked before any of them is imported.

Between Hydra and the pipeline: cells of a sweep, errors in one sentence, exit codes.
"""

import contextlib
import io
import os
import shlex
import signal
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from packaging.requirements import Requirement

from qlora_repro.cli.arguments import composed_once, ids_quoted
from qlora_repro.config import validate
from qlora_repro.config.messages import explain
from qlora_repro.config.paths import CONF, EXPERIMENTS, PYPROJECT
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import say, sentence
from qlora_repro.distributed.coordinator import (
    cannot_go_on,
    dismiss,
    leading,
    refuse_launcher,
    said_elsewhere,
)
from qlora_repro.distributed.environment import rank
from qlora_repro.errors import ConfigError, QloraError
from qlora_repro.store.progress import read_note
from qlora_repro.sweep.cells import (
    ENDED,
    FOLDED,
    RUNNING,
    STOPPED,
    Record,
    command_of,
    identity,
    keep,
    overridden,
    place,
    records,
)
from qlora_repro.sweep.replay import replay
from qlora_repro.sweep.run_cell import BAD, BUSY, REFUSED, Outcome, attempt
from qlora_repro.sweep.workers import launched, let_go, settle


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
        installed = _installed(requirement.name)
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


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


INTERRUPTED = 130  # what a shell expects after Ctrl-C


def cell(cfg: DictConfig) -> None:
    """Check and run one cell. In a sweep a cell that fails does not stop the others."""
    hydra = HydraConfig.get()
    words = cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))
    if hydra.mode == RunMode.MULTIRUN:
        folder = Path(hydra.sweep.dir)
        settle(folder)
        _cell_of_sweep(cfg, words, folder=folder, number=int(hydra.job.num))
        return
    try:
        run_cfg = _checked(cfg, written=overridden(words))
    except QloraError as error:
        outcome = Outcome(state=REFUSED, why=str(error))
    else:
        outcome = attempt(run_cfg, rerun=command_of(words))
    if outcome.state in BAD:
        _say_failure(outcome)
        raise SystemExit(1)


def _cell_of_sweep(cfg: DictConfig, words: list[str], *, folder: Path, number: int) -> None:
    """Run a cell, and leave what came of it in the sweep's folder."""

    def record(state: str, why: str = "", config: dict[str, Any] | None = None) -> Record:
        return Record(number=number, words=words, state=state, why=why, config=config)

    written = overridden(words)
    try:
        run_cfg = _checked(cfg, written=written - {"dq"})
    except QloraError as error:
        _say_failure(
            Outcome(state=REFUSED, why=str(error)), f"cell {number + 1} ({' '.join(words)}): "
        )
        keep(folder, record(REFUSED, str(error)), name="refused")
        return
    name, config = identity(run_cfg), asdict(run_cfg)
    if why := _stopped(run_cfg, folder):
        keep(folder, record(STOPPED, why, config), name=name)
        return
    dropped = "dq" in written and cfg.dq and not run_cfg.dq
    if any(int(path.name[:5]) < number for path in folder.glob(f"*-{name}.json")):
        say(f"\nfolded into an earlier cell{_folded(run_cfg, written)}")
        keep(folder, record(FOLDED, config=config), name=name)
        return
    if (read_note(place(folder, number, name=name)) or {}).get("state") == ENDED:
        return  # its process died on it: it runs alone, after the others
    say(f"\ncell {number + 1}: {' '.join(words)}{f' ({_without_dq(run_cfg)})' * dropped}")
    keep(folder, record(RUNNING, "its process was ended", config), name=name)
    # A search goes by the score of each of its cells, and so waits for one that another works on.
    waits = HydraConfig.get().runtime.choices["hydra/sweeper"] != "basic"
    outcome = attempt(run_cfg, rerun=command_of(words), wait=waits)
    if outcome.state == BUSY:
        say("another process is working on this cell; it is taken up again after the others")
    if outcome.state in BAD:
        _say_failure(outcome, f"cell {number + 1} ({' '.join(words)}): ")
    keep(folder, record(outcome.state, outcome.why, config), name=name)


def _stopped(cfg: RunConfig, folder: Path) -> str:
    """Return why a sweep does not begin another cell; empty where it does."""
    if cannot_go_on():
        return "the processes lost each other in a cell before"
    stop = cfg.on_error == "stop" and any(record.state in BAD for record in records(folder))
    return "on_error=stop: a cell failed before" if stop else ""


def _checked(cfg: DictConfig, *, written: set[str]) -> RunConfig:
    refuse_launcher()
    for group, option in HydraConfig.get().runtime.choices.items():
        if str(option).startswith("_"):
            raise ConfigError(f"{group}={option} is what its other options start from; choose one")
    return validate.parse(cfg, written=written)


def _say_failure(outcome: Outcome, name: str = "") -> None:
    if said_elsewhere():
        return
    if outcome.trace and outcome.unforeseen:
        sys.stderr.write(outcome.trace)
    sentence(" ".join(f"{name}{outcome.why}".split()))


def _folded(cfg: RunConfig, written: set[str]) -> str:
    """Return which of the words that a sweep varies makes no difference to this cell."""
    if "dq" in written and cfg.dtype.name in validate.NO_DQ:
        return f": {_without_dq(cfg)}"
    if "lora" in written and cfg.full_finetuning:
        return ": full fine-tuning has no adapters to place"
    if "dtype.blocksize" in written and not cfg.quantized:
        return f": dtype={cfg.dtype.name} has no blocks"
    return ""


def _without_dq(cfg: RunConfig) -> str:
    return f"dq has no meaning for dtype={cfg.dtype.name}"


def report_errors(main: Callable[[], None]) -> int:
    """Run the command; return its exit code, and put what went wrong in one sentence on stderr."""
    # Started in the background by a script, a process would ignore the signal and run on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if rank() > 0:
        from qlora_repro.cli.worker import follow

        return follow()
    with leading():
        return _command(main)


def _command(main: Callable[[], None]) -> int:
    try:
        check_versions()
        if "--replay" in sys.argv:
            replay(sys.argv[1:])
            return 0
        sys.argv[1:] = arranged(sys.argv[1:])
        with composed_once():
            launched(main)
    except QloraError as error:
        sentence(str(error))
        return 1
    except (HydraException, OmegaConfBaseException) as error:
        sentence(explain(error))
        return 1
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        sentence("a group takes the name of one option, as in train=none; --help lists them")
        return 1
    except KeyboardInterrupt:
        sentence("interrupted; the same command goes on from the last checkpoint")
        sys.stdout.flush()
        dismiss()
        if let_go():
            return INTERRUPTED
        os._exit(INTERRUPTED)  # nothing is left to write, and taking torch down takes seconds
    return 0


def arranged(words: Sequence[str]) -> list[str]:
    """Return the command line with its overrides in one piece and as Hydra's parsers want them.

    Raises ConfigError for a flag that there is not.

    >>> arranged(["model=tiny", "-m", "dtype=nf4,fp4"])
    ['model=tiny', 'dtype=nf4,fp4', '-m']
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            overrides = get_args_parser().parse_intermixed_args(list(words)).overrides
    except SystemExit as stop:
        if not stop.code:
            raise
        why = complaint.getvalue().strip().rpartition("error: ")[2]
        raise ConfigError(f"{why}; python run.py --help shows what can be written") from stop
    flags = list(words)
    for override in overrides:
        flags.remove(override)
    return [*map(ids_quoted, overrides), *flags]


def options(group: str) -> str:
    """Return a group's options as --help shows them, wrapped and indented."""
    folder = CONF / group if group != "experiments" else EXPERIMENTS
    names = sorted(path.stem for path in folder.glob("[!_]*.yaml"))
    text = ", ".join(names) or "(none yet)"
    return textwrap.fill(text, width=84).replace("\n", "\n" + " " * 14)


OmegaConf.register_new_resolver("options", options, replace=True)
