"""Between Hydra and the pipeline: cells of a sweep, errors in one sentence, exit codes."""

import contextlib
import difflib
import errno
import io
import logging
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qlora_repro import checks
from qlora_repro.config import RunConfig
from qlora_repro.console import say, sentence
from qlora_repro.errors import ConfigError, QloraError
from qlora_repro.store.identity import key
from qlora_repro.store.runs import open_store

if TYPE_CHECKING:
    from qlora_repro.records import MemoryPlan
    from qlora_repro.report import CellResult

INTERRUPTED = 130  # what a shell expects after Ctrl-C
FEW = 12  # of more options than these, an error names the nearest only
LACK = ("out of memory", "can't allocate memory", "Cannot allocate memory")
ROOT = Path(__file__).resolve().parents[1]
log = logging.getLogger(__name__)


class Sweep:
    """The cells of this process, in order: what came out, what was folded, what failed."""

    def __init__(self) -> None:
        self.results: list[CellResult] = []
        self.plans: list[MemoryPlan] = []
        self.seen: set[tuple[str, ...]] = set()
        self.failed = 0

    @property
    def cells(self) -> int:
        """How many cells were begun."""
        return len(self.results) + len(self.plans) + self.failed


SWEEP = Sweep()


def cell(cfg: DictConfig) -> None:
    """Check and run one cell. In a sweep a cell that fails does not stop the others."""
    hydra = HydraConfig.get()
    sweeping = hydra.mode == RunMode.MULTIRUN
    words = cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False))
    name = f"cell {SWEEP.cells + 1} ({' '.join(words)}): " if sweeping else ""
    try:
        _run(cfg, words, sweeping=sweeping)
    except QloraError as error:  # here and not further up, where Hydra would print lines of its own
        _fail(f"{name}{error}")
    except Exception as error:
        worded = from_the_machine(error)
        if worded is None and not sweeping:
            raise
        if worded is None:
            log.exception("this cell stopped for a reason that nobody foresaw")
        _fail(name + (worded or f"{type(error).__name__}: {_line(error)}"))


def _run(cfg: DictConfig, words: Sequence[str], *, sweeping: bool) -> None:
    for group, option in HydraConfig.get().runtime.choices.items():
        if str(option).startswith("_"):
            raise ConfigError(f"{group}={option} is what its other options start from; choose one")
    parsed = OverridesParser.create().parse_overrides(list(words))
    written = {str(override.key_or_group) for override in parsed}  # by the user
    run_cfg = checks.parse(cfg, written=written - {"dq"} if sweeping else written)
    dropped = "dq" in written and cfg.dq and not run_cfg.dq
    if sweeping and _folded(run_cfg, dropped=dropped):
        return
    if sweeping:
        why = f" ({_without_dq(run_cfg)})" if dropped else ""
        say(f"\ncell {SWEEP.cells + 1}: {' '.join(words)}{why}")
    open_store(run_cfg.results_dir)  # refused now, and not after the slow imports
    if "plan" in run_cfg.stages:  # and none of the rest: it must not import torch
        from qlora_repro.plan.stage import plan

        SWEEP.plans.append(plan(run_cfg))
        return
    from qlora_repro import pipeline  # torch and all

    SWEEP.results.append(pipeline.run(run_cfg))


def _fail(text: str) -> None:
    SWEEP.failed += 1
    sentence(" ".join(text.split()))


def _folded(cfg: RunConfig, *, dropped: bool) -> bool:
    """Whether this cell is one that has run already, as the 16-bit cells of a dq axis are."""
    names = tuple(key(cfg, stage) for stage in ("train", "eval", "generate", "measure", "plan"))
    if names in SWEEP.seen:
        why = f": {_without_dq(cfg)}" if dropped or not cfg.dq else ""
        say(f"\nfolded into an earlier cell{why}")
        return True
    SWEEP.seen.add(names)
    return False


def _without_dq(cfg: RunConfig) -> str:
    return f"dq has no meaning for dtype={cfg.dtype.name}"


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
    return " ".join(str(error).split())[:300] or type(error).__name__


def report_errors(main: Callable[[], None]) -> int:
    """Run the command; return its exit code, and put what went wrong in one sentence on stderr."""
    # Started in the background by a script, a process would ignore the signal and run on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.argv[1:] = arranged(sys.argv[1:])
        main()
    except ConfigError as error:
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
        os._exit(INTERRUPTED)  # nothing is left to write, and taking torch down takes seconds
    _show_sweep()
    if SWEEP.failed and SWEEP.cells > 1:
        sentence(f"{SWEEP.failed} of {SWEEP.cells} cells failed; the reasons stand above")
    return 1 if SWEEP.failed else 0


def _show_sweep() -> None:
    if len(SWEEP.results) > 1:
        from qlora_repro.report import sweep_table

        say(sweep_table(SWEEP.results))
    if len(SWEEP.plans) > 1:
        from qlora_repro.plan.show import sweep_table as plans_table

        say(plans_table(SWEEP.plans))


def arranged(words: Sequence[str]) -> list[str]:
    """Return the command line with its overrides in one piece, as Hydra's parser wants them.

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
    return [*overrides, *flags]


def explain(error: Exception) -> str:
    """Return Hydra's or OmegaConf's complaint as one sentence with the nearest valid name."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return _unknown_option(group, name, error.options or [])
    found = re.search(
        r"Could not (?:override|append to config\.[^']*|delete from config\.[^']*) ?'([^']+)'", text
    )
    if found:
        return checks.unknown_key(found[1].lstrip("+~"))
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read; write KEY=VALUE, as in dtype=nf4 or train.lr=1e-4"
        )
    if found := re.match(r"(\S+) appears more than once in the final defaults", text):
        return f"{found[1]} is given twice; write {found[1]}=OPTION once and without +"
    if found := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]} has more than one value, which is a sweep; add -m"
    return text


def _unknown_option(group: str, name: str, options: Sequence[str]) -> str:
    there = sorted(option for option in options if not option.startswith("_"))
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    hint = f"the nearest is {group}={near[0]}; " if near else ""
    if not there:
        return f"there is no {group}={name}, and no other option of {group} either"
    if len(there) <= FEW:
        return f"{group} has no option {name!r}; {hint}it has {', '.join(there)}"
    more = f"{', '.join(near[1:])} are near too; " if near[1:] else ""
    return (
        f"{group} has no option {name!r}; {hint}{more}python run.py --help lists all {len(there)}"
    )


def options(group: str) -> str:
    """Return a group's options as --help shows them, wrapped and indented."""
    folder = ROOT / "conf" / group if group != "experiments" else ROOT / group
    names = sorted(path.stem for path in folder.glob("[!_]*.yaml"))
    text = ", ".join(names) or "(none yet)"
    return textwrap.fill(text, width=84).replace("\n", "\n" + " " * 14)


OmegaConf.register_new_resolver("options", options, replace=True)
