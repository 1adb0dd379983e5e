"""python run.py --replay RUN: run again what a folder, or a published run, says it was; compare."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.table import Table

from qlora_repro.config.paths import CONF, EVIDENCE
from qlora_repro.config.schema import LEGACY, RunConfig, setting_types
from qlora_repro.config.validate import parse_config
from qlora_repro.console import note, right_aligned, say
from qlora_repro.errors import ConfigError, RunError
from qlora_repro.records import FAILURES
from qlora_repro.store.cell import STEPS, check_run_folder, find_cell
from qlora_repro.store.integrity import hash_file, read_checksums
from qlora_repro.store.provenance import installed_versions
from qlora_repro.store.runs import TOKENS, average_windows, open_store, read_json, read_json_lines
from qlora_repro.sweep.cells import format_command
from qlora_repro.sweep.run_cell import run_cell

AGAIN = "outputs/replay"  # a results folder of its own, so that nothing is taken from the store
GONE = {"plan": ("adapters",)}  # what they decided is decided elsewhere
KINDS = (STEPS, "metrics-*.jsonl", "answers-*.jsonl", "generations-*.jsonl")


@dataclass(frozen=True, kw_only=True)
class FileComparison:
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


def replay(arguments: Sequence[str]) -> None:
    """Repeat a run, named by its folder or its published id, into another folder; compare.

    Raises ConfigError for what is no run, RunError where a number differs.
    """
    name, into = _parse_arguments(arguments)
    with _open_run(name) as folder:
        _repeat(folder, into, name=name)


def _open_run(name: str) -> AbstractContextManager[Path]:
    """Give a run's folder; that of a published run, named by its id, is unpacked for the time."""
    from qlora_repro.store.evidence import unpacked_run  # pandas: other commands do without it

    is_id = re.fullmatch("[0-9a-f]{4,12}", name) and not Path(name).exists()
    return unpacked_run(EVIDENCE, name) if is_id else nullcontext(Path(name))


def _repeat(folder: Path, into: Path, *, name: str) -> None:
    check_run_folder(folder)
    origins = [read_json(path) for path in sorted(folder.glob("origin-*.json"))]
    if not origins:
        raise ConfigError(
            f"--replay {name} has no origin-*.json; name the id of a published run, or a run's "
            "folder, as in outputs/results/tiny-nf4-dq-all-r64-procedural-s0-0123456789ab"
        )
    _say_origin(origins)
    comparisons: dict[str, FileComparison] = {}
    for cfg in _configs(origins, into):
        outcome = run_cell(cfg, rerun=format_command(["--replay", name]))
        if outcome.state in FAILURES:
            raise RunError(outcome.why)
        cell = find_cell(cfg, open_store(into))
        again = cell.base if folder.name == cell.base.path.name else cell.folder
        comparisons |= {each.file: each for each in compare_runs(folder, again.path)}
    say(build_comparison_table(list(comparisons.values())))
    differing = [each.file for each in comparisons.values() if not each.same]
    if differing:
        raise RunError(f"{', '.join(differing)} came out otherwise than in {name}")
    say(f"every number is that of {name}")


def _parse_arguments(arguments: Sequence[str]) -> tuple[str, Path]:
    rest = [word for word in arguments if word != "--replay"]
    into = [word for word in rest if word.startswith("results_dir=")]
    folders = [word for word in rest if word not in into]
    if len(folders) != 1 or len(into) > 1:
        raise ConfigError(
            f"--replay takes one run's folder and at most results_dir=DIR, not {' '.join(rest)!r}"
        )
    target = Path(into[0].partition("=")[2] if into else AGAIN)
    if target.resolve() == Path(folders[0]).resolve().parent:
        raise ConfigError(f"results_dir={target} holds the run itself; name another folder")
    return folders[0], target


def _say_origin(origins: Sequence[dict[str, Any]]) -> None:
    last = max(origins, key=lambda origin: str(origin["finished"]))
    where = "" if last["folder"] == "." else f" in {last['folder']}"  # not told in a published run
    say(f"made by {shlex.join(last['command'])}{where}, {last['finished']}")
    now = installed_versions()
    changed = [f"{k} {v}, now {now[k]}" for k, v in last["packages"].items() if now.get(k) != v]
    if changed:
        note(f"other versions than then: {', '.join(changed)}")


def _configs(origins: Sequence[dict[str, Any]], into: Path) -> Iterator[RunConfig]:
    """Yield each distinct configuration that the run's stages were made with, oldest first."""
    seen = []
    for origin in sorted(origins, key=lambda origin: str(origin["finished"])):
        sections = _with_later_settings(origin["config"]) | {"results_dir": str(into)}
        if "${" in json.dumps(sections):
            raise ConfigError(
                f"the settings of {origin['folder']} hold an interpolation, ${{...}}, which no run "
                "records and which would read what is on this machine; it is not replayed"
            )
        sections["tracker"] = sections["tracker"] | {"name": "none"}
        if sections not in seen:
            seen.append(sections)
            yield parse_config(OmegaConf.create(sections), written=())


def _with_later_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with the settings that came after the run.

    They have the value that stands for what the code did then, where one is declared, and the
    default of today where nothing of the kind was done. Settings that are gone are left out.
    """
    _settle_legacy(config)
    now = _defaults()
    added = []
    for name in setting_types():
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


def compare_runs(one: Path, two: Path) -> Iterator[FileComparison]:
    """Compare every record file of two runs, number by number, and their weights by digest."""
    names = {path.name for kind in KINDS for path in one.glob(kind)}
    for name in sorted(names):
        before = read_json_lines(one / name)
        now = read_json_lines(two / name) if (two / name).exists() else []
        if size := max((row.get(TOKENS, 0) for row in before), default=0):
            now = list(average_windows(now, size))  # the run was published
        yield _compare_values(name, _facts(before), _facts(now))
    for weights in ("adapter", "model"):
        first, second = _hash_weights(one / weights), _hash_weights(two / weights)
        if not first:  # a published run has no weights, and the checksums of what they were
            entries = (read_checksums(one / weights) or {}).items()
            first = {n: entry["sha256"] for n, entry in entries if n.endswith(".safetensors")}
        if not first and not second:
            continue
        others = sum(first.get(n) != second.get(n) for n in first.keys() | second.keys())
        yield FileComparison(
            file=f"{weights}, by digest", numbers=0, differing=0, largest=0, others=others
        )


def _hash_weights(folder: Path) -> dict[str, str]:
    """Return the digest of the bytes of each file of weights."""
    return {path.name: hash_file(path) for path in folder.glob("*.safetensors")}


def _facts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return every value of the records by its place; null is no value, as a later field has it."""
    return {
        f"{place}/{name}": value
        for place, row in enumerate(rows)
        for name, value in row.items()
        if value is not None
    }


def _compare_values(name: str, one: dict[str, Any], two: dict[str, Any]) -> FileComparison:
    pairs = [(value, two.get(place)) for place, value in one.items()]
    numbers, others = [], 0
    for a, b in pairs:
        if isinstance(a, int | float) and isinstance(b, int | float):
            numbers.append((float(a), float(b)))
        else:
            others += json.dumps(a) != json.dumps(b)
    differences = [abs(a - b) for a, b in numbers if a != b]
    return FileComparison(
        file=name,
        numbers=len(numbers),
        differing=len(differences),
        largest=max(differences, default=0.0),
        others=others + len(set(two) - set(one)),
    )


def build_comparison_table(comparisons: Sequence[FileComparison]) -> Table:
    """Return a row a file."""
    numbers = right_aligned("numbers", "differ", "by at most", "else")
    table = Table("file", *numbers, title="the run and its repetition", title_justify="left")
    for one in comparisons:
        counts = f"{one.numbers}", f"{one.differing}", f"{one.largest:g}", f"{one.others}"
        table.add_row(one.file, *counts)
    return table
