"""python run.py --replay RUN_DIR: run again what a folder says it was, and compare the numbers."""

import json
import shlex
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.table import Table

from qlora_repro.config import validate
from qlora_repro.config.paths import CONF
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, say
from qlora_repro.errors import ConfigError, RunError
from qlora_repro.store.cell import STEPS, find_cell
from qlora_repro.store.integrity import entered
from qlora_repro.store.provenance import versions
from qlora_repro.store.run_id import LEGACY
from qlora_repro.store.runs import TOKENS, in_blocks, open_store, read_document, read_lines
from qlora_repro.sweep.run_cell import BAD, attempt

AGAIN = "outputs/replay"  # a results folder of its own, so that nothing is taken from the store
GONE = {"plan": ("adapters",)}  # what they decided is decided elsewhere
KINDS = (STEPS, "metrics-*.jsonl", "answers-*.jsonl", "generations-*.jsonl")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One file of a run beside its repetition."""

    file: str
    numbers: int
    differing: int  # numbers that are not equal to the last bit
    largest: float  # absolute difference
    others: int  # texts that differ, rows and files that are there once only

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differing and not self.others


def replay(words: Sequence[str]) -> None:
    """Repeat the run whose folder is named, into another results folder, and compare.

    Raises ConfigError for what is no run's folder, RunError where a number differs.
    """
    folder, into = _asked(words)
    origins = [read_document(path) for path in sorted(folder.glob("origin-*.json"))]
    if not origins:
        raise ConfigError(
            f"--replay {folder} has no origin-*.json; name a run's folder, as in "
            "outputs/results/tiny-nf4-dq-all-r64-procedural-s0-0123456789ab"
        )
    _say_origin(origins)
    compared: dict[str, Compared] = {}
    for cfg in _configs(origins, into):
        outcome = attempt(cfg, rerun=shlex.join(["python", "run.py", "--replay", str(folder)]))
        if outcome.state in BAD:
            raise RunError(outcome.why)
        cell = find_cell(cfg, open_store(into))
        again = cell.base if folder.name == cell.base.path.name else cell.folder
        compared |= {found.file: found for found in compare(folder, again.path)}
    say(table(list(compared.values())))
    differing = [found.file for found in compared.values() if not found.same]
    if differing:
        raise RunError(f"{', '.join(differing)} came out otherwise than in {folder}")
    say(f"every number is that of {folder}")


def _asked(words: Sequence[str]) -> tuple[Path, Path]:
    rest = [word for word in words if word != "--replay"]
    into = [word for word in rest if word.startswith("results_dir=")]
    folders = [word for word in rest if word not in into]
    if len(folders) != 1 or len(into) > 1:
        raise ConfigError(
            f"--replay takes one run's folder and at most results_dir=DIR, not {' '.join(rest)!r}"
        )
    folder, target = Path(folders[0]), Path(into[0].partition("=")[2] if into else AGAIN)
    if target.resolve() == folder.resolve().parent:
        raise ConfigError(f"results_dir={target} holds the run itself; name another folder")
    return folder, target


def _say_origin(origins: Sequence[dict[str, Any]]) -> None:
    last = max(origins, key=lambda origin: str(origin["finished"]))
    where = "" if last["folder"] == "." else f" in {last['folder']}"  # not told in a published run
    say(f"made by {shlex.join(last['command'])}{where}, {last['finished']}")
    now = versions()
    changed = [f"{k} {v}, now {now[k]}" for k, v in last["packages"].items() if now.get(k) != v]
    if changed:
        note(f"other versions than then: {', '.join(changed)}")


def _configs(origins: Sequence[dict[str, Any]], into: Path) -> Iterator[RunConfig]:
    """Yield each distinct configuration that the run's stages were made with, oldest first."""
    seen = []
    for origin in sorted(origins, key=lambda origin: str(origin["finished"])):
        sections = _with_later_settings(origin["config"]) | {"results_dir": str(into)}
        sections["tracker"] = sections["tracker"] | {"name": "none"}
        if sections not in seen:
            seen.append(sections)
            yield validate.parse(OmegaConf.create(sections), written=())


def _with_later_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with the settings that came after the run.

    They have the value that stands for what the code did then, where one is declared, and the
    default of today where nothing of the kind was done. Settings that are gone are left out.
    """
    _settle_legacy(config)
    now = _defaults()
    added = []
    for name in list(validate.keys()):
        *above, last = name.split(".")
        old: Any = config
        new: Any = now
        for section in above:
            old, new = (old or {}).get(section), (new or {}).get(section)
        if isinstance(old, dict) and isinstance(new, dict) and last not in old and last in new:
            old[last] = deepcopy(new[last])
            added.append(name)
    if added:
        note(f"settings that there were not then have their defaults: {', '.join(added)}")
    return config


def _settle_legacy(config: dict[str, Any]) -> None:
    for section, names in GONE.items():
        for name in names:
            config.get(section, {}).pop(name, None)
    for section, values in LEGACY.items():
        if isinstance(config.get(section), dict):
            config[section] = values | config[section]


@cache
def _defaults() -> dict[str, Any]:
    """Return the whole configuration of a run that says nothing; not to be changed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return cast(dict[str, Any], OmegaConf.to_container(compose("config"), resolve=True))


def compare(one: Path, two: Path) -> Iterator[Compared]:
    """Compare every record file of two runs, number by number, and their weights by digest."""
    names = {path.name for kind in KINDS for path in one.glob(kind)}
    for name in sorted(names):
        there = (two / name).exists()
        before, now = read_lines(one / name), read_lines(two / name) if there else []
        if size := max((row.get(TOKENS, 0) for row in before), default=0):
            now = list(in_blocks(now, size))  # the run was published
        yield _compared(name, _facts(before), _facts(now))
    for weights in ("adapter", "model"):
        entries = [entered(folder / weights) for folder in (one, two)]
        if entries[0] is None:
            continue
        names = {n for found in entries for n in found or {} if n.endswith(".safetensors")}
        others = sum((entries[0] or {}).get(n) != (entries[1] or {}).get(n) for n in names)
        yield Compared(
            file=f"{weights}, by digest", numbers=0, differing=0, largest=0, others=others
        )


def _facts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return every value of the records by its place; null is no value, as a later field has it."""
    return {
        f"{place}/{name}": value
        for place, row in enumerate(rows)
        for name, value in row.items()
        if value is not None
    }


def _compared(name: str, one: dict[str, Any], two: dict[str, Any]) -> Compared:
    pairs = [(value, two.get(place)) for place, value in one.items()]
    numbers = [
        (float(a), float(b))
        for a, b in pairs
        if isinstance(a, int | float) and isinstance(b, int | float)
    ]
    differences = [abs(a - b) for a, b in numbers if a != b]
    plain = [(a, b) for a, b in pairs if not isinstance(a, int | float)]
    lost = [1 for a, b in pairs if isinstance(a, int | float) and not isinstance(b, int | float)]
    others = sum(json.dumps(a) != json.dumps(b) for a, b in plain) + len(lost)
    return Compared(
        file=name,
        numbers=len(numbers),
        differing=len(differences),
        largest=max(differences, default=0.0),
        others=others + len(set(two) - set(one)),
    )


def table(found: Sequence[Compared]) -> Table:
    """Return a row a file."""
    made = Table(title="the run and its repetition", title_justify="left")
    made.add_column("file")
    for name in ("numbers", "differ", "by at most", "else"):
        made.add_column(name, justify="right")
    for one in found:
        facts = asdict(one)
        counts = [str(facts[key]) for key in ("numbers", "differing")]
        made.add_row(one.file, *counts, f"{one.largest:g}", str(one.others))
    return made
