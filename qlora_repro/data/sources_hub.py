"""Datasets of the hub: load a table, choose its rows, turn them into examples."""

import logging
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from random import Random

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the hub's own client

from qlora_repro.config import DataConfig
from qlora_repro.data.sources_chat import (
    alpaca,
    chip2,
    hh_rlhf,
    longform,
    oasst1,
    self_instruct,
    unnatural,
)
from qlora_repro.data.sources_rows import Row
from qlora_repro.data.sources_tasks import GLUE_COLUMNS, flan_v2, glue, super_ni
from qlora_repro.errors import DataError
from qlora_repro.records import Example

log = logging.getLogger(__name__)

SOURCES: dict[str, Callable[[Row, str, str], Iterator[Example]]] = {
    "alpaca": alpaca,
    "chip2": chip2,
    "flan_v2": flan_v2,
    "glue": glue,
    "hh_rlhf": hh_rlhf,
    "longform": longform,
    "oasst1": oasst1,
    "self_instruct": self_instruct,
    "super_ni": super_ni,
    "unnatural": unnatural,
}
# Sets that are some of a repository's files. self_instruct is a loading script on its main branch,
# which `datasets` no longer runs; the hub's own conversion keeps one folder per subset.
FILES = {"chip2": "unified_chip2.jsonl", "self_instruct": "self_instruct/**/*.parquet"}
TASK_COLUMNS = {"super_ni": ("task_name",), "flan_v2": ("task_name", "task")}
MANY_PER_ROW = ("unnatural",)  # a row holds several examples, so rows cannot be counted beforehand
MAX_EMPTY = 0.01  # share of rows without an answer that a published set may have; they are left out
UNREACHABLE = (
    ConnectionError,
    FileNotFoundError,
    TimeoutError,
    HfHubHTTPError,
    httpx.TransportError,
)


def from_hub(cfg: DataConfig, *, split: str) -> list[Example]:
    """Return the examples of a dataset of the hub, at most about `cfg.rows` of them.

    Rows without an answer are left out, with a line in the log, as long as they are few.
    Raises DataError when the hub cannot be reached, for an unknown subset, split, task or column,
    and when more than one row in a hundred has no answer.
    """
    subsets = _subsets(cfg)
    found: list[Example] = []
    for subset in subsets:
        table = _load(cfg, subset, split=split)
        found += _convert(cfg, table, subset=subset, alone=len(subsets) == 1)
    return found


def subsample(count: int, rows: int | None, *, seed: int) -> list[int]:
    """Return which of `count` rows to keep, in order: at most `rows`, drawn without replacement.

    >>> subsample(3, None, seed=0)
    [0, 1, 2]
    """
    if rows is None or rows >= count:
        return list(range(count))
    return sorted(Random(f"{seed}/rows").sample(range(count), rows))


def _subsets(cfg: DataConfig) -> list[str | None]:
    if cfg.name != "glue":
        if cfg.tasks is not None and cfg.name not in TASK_COLUMNS:
            raise DataError(
                f"data.tasks is {cfg.tasks} and data={cfg.name} has no tasks to choose from; use "
                "data.tasks=null"
            )
        return [cfg.config_name]
    names = cfg.tasks or ([cfg.config_name] if cfg.config_name else list(GLUE_COLUMNS))
    if cfg.config_name not in (None, *names):
        raise DataError(
            f"data.tasks={cfg.tasks} and data.config_name={cfg.config_name!r} contradict each "
            "other; set data.config_name=null"
        )
    return [_known(name, list(GLUE_COLUMNS), kind="GLUE task") for name in names]


def _load(cfg: DataConfig, subset: str | None, *, split: str) -> Dataset:
    if not cfg.path:
        raise DataError(f"data.path is empty, and data={cfg.name} needs the id of a hub dataset")
    if (cfg.name, subset, split) == ("glue", "mnli", "validation"):
        split = "validation_matched"  # MNLI alone has two validation splits
    files = FILES.get(cfg.name)
    try:
        return load_dataset(cfg.path, subset, data_files=files, revision=cfg.revision, split=split)
    except UNREACHABLE as error:
        only = f"--include '{files}' " if files else ""
        raise DataError(
            f"the dataset {cfg.path} (revision {cfg.revision or 'main'}) could not be reached "
            f"({_first_line(error)}); where there is a network, run `hf download {cfg.path} "
            f"--repo-type dataset --revision {cfg.revision or 'main'} {only}--local-dir DIR`, then "
            "set data.path=DIR here"
        ) from error
    except (ValueError, RuntimeError, DatasetGenerationError) as error:
        raise DataError(
            f"the dataset {cfg.path} cannot be read with data.config_name={subset or 'null'} and "
            f"data.split={split}: {_first_line(error)}"
        ) from error


def _convert(cfg: DataConfig, table: Dataset, *, subset: str | None, alone: bool) -> list[Example]:
    numbers = _of_tasks(cfg, table)
    if alone and cfg.name not in MANY_PER_ROW:  # before conversion: a set may hold millions of rows
        numbers = [numbers[i] for i in subsample(len(numbers), cfg.rows, seed=cfg.seed)]
    found: list[Example] = []
    empty: list[int] = []
    for number, row in zip(numbers, table.select(numbers), strict=True):
        try:
            made = list(SOURCES[cfg.name](row, cfg.template, subset or ""))
        except DataError as error:
            raise DataError(f"{cfg.path}, row {number + 1}: {error}") from error
        found += [example for example in made if example.target]
        if any(not example.target for example in made):
            empty.append(number + 1)
    if len(empty) > MAX_EMPTY * len(numbers):
        raise DataError(
            f"{len(empty)} of {len(numbers)} rows of {cfg.path} have an empty target, the first in "
            f"row {empty[0]}; a target must have text"
        )
    if empty:
        log.warning("%s: left out %d rows with an empty target", cfg.path, len(empty))
    return found


def _of_tasks(cfg: DataConfig, table: Dataset) -> list[int]:
    """Return the numbers of the rows whose task is asked for; all of them when none is named."""
    if cfg.tasks is None or cfg.name not in TASK_COLUMNS:
        return list(range(len(table)))
    named = [column for column in TASK_COLUMNS[cfg.name] if column in table.column_names]
    if not named:
        raise DataError(
            f"{cfg.path} has no column {TASK_COLUMNS[cfg.name][0]!r} among "
            f"{', '.join(table.column_names)}; use data.tasks=null"
        )
    tasks = list(table[named[0]])
    there = sorted(set(tasks))
    wanted = {_known(name, there, kind=f"{cfg.name} task") for name in cfg.tasks}
    return [number for number, task in enumerate(tasks) if task in wanted]


def _known(name: str, names: list[str], *, kind: str) -> str:
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.0)
        hint = f"; the nearest of {len(names)} is {near[0]!r}" if near else ""
        raise DataError(f"there is no {kind} {name!r}{hint}")
    return name


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
