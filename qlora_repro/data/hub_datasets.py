"""Datasets of the hub: load a table, choose its rows, turn them into examples."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from random import Random

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the hub's own client

from qlora_repro.config.schema import DataConfig
from qlora_repro.data.instruction_datasets import (
    FLAN_TASK_COLUMNS,
    GLUE_COLUMNS,
    SOLVED,
    Row,
    alpaca,
    chip2,
    flan_v2,
    glue,
    hh_rlhf,
    longform,
    oasst1,
    self_instruct,
    super_ni,
    unnatural,
)
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
TASK_COLUMNS = {"super_ni": ("task_name",), "flan_v2": FLAN_TASK_COLUMNS}
DRAWN_BY_TASK = ("super_ni",)
MANY_PER_ROW = ("unnatural",)  # a row holds several examples, so rows cannot be counted beforehand
MAX_EMPTY = 0.01  # share of rows without an answer that a published set may have; they are left out
UNREACHABLE = (
    ConnectionError,
    FileNotFoundError,
    TimeoutError,
    HfHubHTTPError,
    httpx.TransportError,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One table of a dataset, and how many of its rows are wanted."""

    path: str
    subset: str | None
    rows: int | None  # drawn before conversion, as a table may hold millions; None: all


def from_hub(cfg: DataConfig, *, split: str) -> list[Example]:
    """Return the examples of a dataset of the hub, at most about `cfg.rows` of them.

    Rows without an answer are left out, with a line in the log, as long as they are few.
    Raises DataError when the hub cannot be reached, for an unknown subset, split, task or column,
    and when more than one row in a hundred has no answer.
    """
    return [
        example
        for part in _parts(cfg)
        for example in _convert(cfg, part, _load(cfg, part, split=split))
    ]


def check_choice(cfg: DataConfig) -> None:
    """Refuse a choice of rows that the dataset cannot offer; raises DataError."""
    by_task = cfg.name in DRAWN_BY_TASK
    if cfg.rows_per_task is not None and not by_task:
        raise DataError(
            f"data.rows_per_task is {cfg.rows_per_task} and data={cfg.name} is not drawn by task; "
            "use data.rows_per_task=null"
        )
    if cfg.examples and not by_task:
        raise DataError(
            f"data.examples is {cfg.examples} and data={cfg.name} shows no solved examples; use "
            "data.examples=0"
        )
    if cfg.mix is None:
        return
    if (
        cfg.name not in SOURCES
        or cfg.name == "glue"
        or cfg.tasks is not None
        or cfg.rows_per_task is not None
    ):
        raise DataError(
            f"data.mix draws from several sets at given shares, which does not go with "
            f"data={cfg.name}, data.tasks={_null(cfg.tasks)} and "
            f"data.rows_per_task={_null(cfg.rows_per_task)}; use data.mix=null"
        )
    if cfg.rows is None or not cfg.mix or not min(cfg.mix.values()) > 0:
        raise DataError(
            f"data.mix is {cfg.mix} and data.rows is {_null(cfg.rows)}; a mix needs a number of "
            "rows, and of each set a share above 0"
        )


def _null(value: object) -> object:
    return "null" if value is None else value


def subsample(count: int, rows: int | None, *, seed: int) -> list[int]:
    """Return which of `count` rows to keep, in order: at most `rows`, drawn without replacement.

    >>> subsample(3, None, seed=0)
    [0, 1, 2]
    """
    if rows is None or rows >= count:
        return list(range(count))
    return sorted(Random(f"{seed}/rows").sample(range(count), rows))


def shares(mix: dict[str, float], rows: int) -> dict[str, int]:
    """Return how many of `rows` each part of a mix gives; what rounding leaves goes to the first.

    >>> shares({"a": 0.5, "b": 0.25, "c": 0.25}, 10)
    {'a': 6, 'b': 2, 'c': 2}
    """
    whole = sum(mix.values())
    counts = {name: int(rows * share / whole) for name, share in mix.items()}
    counts[next(iter(mix))] += rows - sum(counts.values())
    return counts


def _parts(cfg: DataConfig) -> list[Part]:
    if not cfg.path:
        raise DataError(f"data.path is empty, and data={cfg.name} needs the id of a hub dataset")
    if cfg.mix is not None and cfg.rows is not None:
        return [
            Part(path=f"{cfg.path}/{name}", subset=cfg.config_name, rows=count)
            for name, count in shares(cfg.mix, cfg.rows).items()
        ]
    subsets = _subsets(cfg)
    early = len(subsets) == 1 and cfg.name not in MANY_PER_ROW
    rows = cfg.rows if early else None
    return [Part(path=cfg.path, subset=subset, rows=rows) for subset in subsets]


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


def _load(cfg: DataConfig, part: Part, *, split: str) -> Dataset:
    path, subset = part.path, part.subset
    if (cfg.name, subset, split) == ("glue", "mnli", "validation"):
        split = "validation_matched"  # MNLI alone has two validation splits
    files = FILES.get(cfg.name)
    try:
        return load_dataset(path, subset, data_files=files, revision=cfg.revision, split=split)
    except UNREACHABLE as error:
        only = f"--include '{files}' " if files else ""
        folder = "DIR" if cfg.mix is None else f"DIR/{Path(path).name}"
        raise DataError(
            f"the dataset {path} (revision {cfg.revision or 'main'}) could not be reached "
            f"({_first_line(error)}); where there is a network, run `hf download {path} "
            f"--repo-type dataset --revision {cfg.revision or 'main'} {only}--local-dir {folder}`, "
            "then set data.path=DIR here"
        ) from error
    except (ValueError, RuntimeError, DatasetGenerationError) as error:
        raise DataError(
            f"the dataset {path} cannot be read with data.config_name={subset or 'null'} and "
            f"data.split={split}: {_first_line(error)}"
        ) from error


def _convert(cfg: DataConfig, part: Part, table: Dataset) -> list[Example]:
    numbers = _of_tasks(cfg, part, table)
    solved: dict[str, list[Row]] = {}
    if cfg.rows_per_task is not None or cfg.examples:
        _task_column(cfg, part, table)
        numbers, solved = _by_task(cfg, table, numbers)
    if part.rows is not None:
        numbers = [numbers[i] for i in subsample(len(numbers), part.rows, seed=cfg.seed)]
    examples: list[Example] = []
    empty: list[int] = []
    for number, row in zip(numbers, table.select(numbers), strict=True):
        shown = {SOLVED: solved[row["task_name"]]} if solved else {}
        try:
            of_row = list(SOURCES[cfg.name]({**row, **shown}, cfg.template, part.subset or ""))
        except DataError as error:
            raise DataError(f"{part.path}, row {number + 1}: {error}") from error
        examples += [example for example in of_row if example.target]
        if any(not example.target for example in of_row):
            empty.append(number + 1)
    if len(empty) > MAX_EMPTY * len(numbers):
        raise DataError(
            f"{len(empty)} of {len(numbers)} rows of {part.path} have an empty target, the first "
            f"in row {empty[0]}; a target must have text"
        )
    if empty:
        log.warning("%s: left out %d rows with an empty target", part.path, len(empty))
    return examples


def _by_task(
    cfg: DataConfig, table: Dataset, numbers: list[int]
) -> tuple[list[int], dict[str, list[Row]]]:
    """Return which rows to learn, in order, and of each task the rows to show as solved examples.

    An instance with several right answers has a row for each, of which the first counts. What is
    shown is never learned; a task of few instances shows fewer, so that one is left to learn.
    """
    instances: dict[str, dict[str, int]] = defaultdict(dict)
    chosen = table.select(numbers)
    ids = chosen["id"] if "id" in table.column_names else chosen["inputs"]
    for number, task, name in zip(numbers, chosen["task_name"], ids, strict=True):
        instances[task].setdefault(name, number)
    learned: list[int] = []
    solved: dict[str, list[Row]] = {}
    for task, of_task in instances.items():
        drawn = Random(f"{cfg.seed}/{task}").sample(list(of_task.values()), len(of_task))
        shows = min(cfg.examples, len(drawn) - 1)
        solved[task] = [table[number] for number in drawn[:shows]]
        rest = drawn[shows:]
        learned += rest if cfg.rows_per_task is None else rest[: cfg.rows_per_task]
    return sorted(learned), solved


def _of_tasks(cfg: DataConfig, part: Part, table: Dataset) -> list[int]:
    """Return the numbers of the rows whose task is asked for; all of them when none is named."""
    if cfg.tasks is None or cfg.name not in TASK_COLUMNS:
        return list(range(len(table)))
    tasks = list(table[_task_column(cfg, part, table)])
    there = sorted(set(tasks))
    wanted = {_known(name, there, kind=f"{cfg.name} task") for name in cfg.tasks}
    return [number for number, task in enumerate(tasks) if task in wanted]


def _task_column(cfg: DataConfig, part: Part, table: Dataset) -> str:
    named = [column for column in TASK_COLUMNS[cfg.name] if column in table.column_names]
    if not named:
        raise DataError(
            f"{part.path} has no column {TASK_COLUMNS[cfg.name][0]!r} among "
            f"{', '.join(table.column_names)}; use data.tasks=null, data.rows_per_task=null and "
            "data.examples=0"
        )
    return named[0]


def _known(name: str, names: list[str], *, kind: str) -> str:
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.0)
        hint = f"; the nearest of {len(names)} is {near[0]!r}" if near else ""
        raise DataError(f"there is no {kind} {name!r}{hint}")
    return name


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
