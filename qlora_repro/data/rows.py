"""Rows with named columns: read from files and functions of the user's own, made into examples.

Training rows are json, jsonl, csv or parquet; questions, answers and matches are JSON lines.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from qlora_repro.config.messages import nearest_names
from qlora_repro.config.registry import import_function
from qlora_repro.config.schema import ColumnsConfig, DataConfig
from qlora_repro.data.templates import render_prompt, render_target
from qlora_repro.errors import DataError, QloraError
from qlora_repro.records import Example

Row = Mapping[str, Any]


def get_value(row: Row, column: str) -> Any:
    """Return the row's value in a column; DataError with the columns there are if it has none."""
    if column not in row:
        near = nearest_names(column, row, cutoff=0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise DataError(f"there is no column {column!r} among {', '.join(row)}{hint}")
    return row[column]


def get_text(row: Row, column: str) -> str:
    """Return the row's text in a column, a missing value as an empty one."""
    value = get_value(row, column)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(
            f"column {column!r} holds {type(value).__name__} values, and must hold text or numbers"
        )
    return str(value)


def build_example(
    template: str, instruction: str, answer: str, *, input: str = "", task: str = ""
) -> Example:
    """Return the example of one instruction; an empty answer stays empty, to be refused later."""
    return Example(
        source=render_prompt(template, instruction, input),
        target=render_target(template, answer) if answer.strip() else "",
        task=task,
    )


def convert_by_columns(row: Row, template: str, columns: ColumnsConfig) -> Example:
    """Return the example of a row whose columns are named: its source is an instruction."""
    task = get_text(row, columns.task) if columns.task else ""
    instruction, answer = get_text(row, columns.source), get_text(row, columns.target)
    return build_example(template, instruction, answer, task=task)


def sample_rows(count: int, rows: int | None, *, seed: int) -> list[int]:
    """Return which of `count` rows to keep, in order: at most `rows`, drawn without replacement.

    >>> sample_rows(3, None, seed=0)
    [0, 1, 2]
    """
    if rows is None or rows >= count:
        return list(range(count))
    return sorted(Random(f"{seed}/rows").sample(range(count), rows))


def read_json_lines(path: Path, *, subject: str, instead: str) -> list[tuple[str, Any]]:
    """Return (where it stands, its value) of each line that is not empty.

    subject, instead: what cannot be read, and what to give for it, as an error says them. Raises
    DataError for a file that cannot be read, and for a line that is not JSON, with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{subject} cannot be read ({type(error).__name__}); {instead}") from error
    rows = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]
    return [(where, _parse_line(line, where)) for where, line in rows if line.strip()]


def _parse_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}); one object a line is read") from error


def load_file_examples(cfg: DataConfig, split: str) -> list[Example]:
    """Return the rows of the file `cfg.path` as examples; a file has no splits.

    The source column is the instruction that `cfg.template` puts into a prompt.

    Raises:
        DataError: When the file is missing, empty or not what its suffix says, when it lacks a
            column, and for a row whose target is empty, by its number (the first row is 1).
    """
    assert cfg.path is not None, "the configuration was not checked"
    if cfg.columns is None:
        raise DataError(
            f"data.columns is null, and data={cfg.name} needs to know its columns; give "
            "data.columns.source and data.columns.target"
        )
    path = Path(cfg.path).expanduser()
    return _convert_rows(cfg, cfg.columns, read_rows(path), subject=str(path))


def load_function_examples(cfg: DataConfig, split: str) -> list[Example]:
    """Return the rows of the user's own function, `cfg.loader`, as examples.

    The function is called with the data section and the split. It returns or yields rows with
    `source`, `target` and perhaps `task`, unless `data.columns` names others, which go into the
    prompt template as those of a file do; or whole examples, which stay as they are.
    """
    name = str(cfg.loader).partition(" ")[0]
    try:
        rows = list(import_function(str(cfg.loader))(cfg, split))
    except QloraError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{name} failed: {reason}") from error
    if all(isinstance(row, Example) for row in rows):
        return rows
    first = rows[0]
    if not isinstance(first, Mapping):
        raise DataError(
            f"{name} gave a {type(first).__name__}, and must give rows with source and target"
        )
    task = "task" if "task" in first else None
    columns = cfg.columns or ColumnsConfig(source="source", target="target", task=task)
    return _convert_rows(cfg, columns, rows, subject=name)


def _convert_rows(
    cfg: DataConfig, columns: ColumnsConfig, rows: Sequence[Row], *, subject: str
) -> list[Example]:
    examples = []
    for number, row in enumerate(rows, start=1):
        try:
            example = convert_by_columns(row, cfg.template, columns)
        except DataError as error:
            raise DataError(f"{subject}, row {number}: {error}") from error
        if not example.target:
            raise DataError(
                f"{subject}, row {number}: the target column {columns.target!r} is empty; every "
                "row needs an answer to learn"
            )
        if cfg.tasks is None or example.task in cfg.tasks:
            examples.append(example)
    if not rows:
        raise DataError(f"{subject} has no rows; training needs at least one")
    known = {example.task for example in examples}
    for name in cfg.tasks or ():
        if name not in known:
            raise DataError(f"data.tasks has {name!r}, and {subject} has no row of that task")
    return examples


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file by its suffix; the text formats may be gzipped (.csv.gz)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if zipped else suffixes)[-1:]
    name = kind[0] if kind else ""
    if name not in READERS and not (name == ".parquet" and not zipped):
        raise DataError(
            f"{path} does not end in one of {', '.join((*READERS, '.parquet'))} (text formats also "
            "with .gz), so its format is unknown"
        )
    if not path.is_file():
        raise DataError(f"{path} is not a file; data.path is read from {Path.cwd()}")
    try:
        if name == ".parquet":
            table_rows: list[Row] = pq.read_table(path).to_pylist()
            return table_rows
        opener: Callable[..., IO[str]] = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:  # -sig: drops a BOM
            return list(READERS[name](file))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as {name[1:]}: {reason}") from error


def _read_json(file: IO[str]) -> Iterator[Row]:
    try:
        rows = json.load(file)
    except json.JSONDecodeError as error:
        hint = "; a file with one object a line must end in .jsonl"
        raise DataError(f"{error}{hint if error.msg == 'Extra data' else ''}") from error
    if not isinstance(rows, list):
        raise DataError(f"the file holds one {type(rows).__name__}, and must hold a list of rows")
    for number, row in enumerate(rows, start=1):
        yield _check_object(row, number)


def _read_jsonl(file: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield _check_object(json.loads(line), number)
        except json.JSONDecodeError as error:
            raise DataError(f"line {number} is not JSON: {error.msg}") from error


def _read_csv(file: IO[str]) -> Iterator[Row]:
    for number, row in enumerate(csv.DictReader(file, strict=True), start=1):
        if None in row:
            raise DataError(f"row {number} has more fields than the header")
        yield row


def _check_object(row: Any, number: int) -> Row:
    if not isinstance(row, dict):
        raise DataError(
            f"row {number} is a {type(row).__name__}, and must be an object with named columns"
        )
    return row


READERS: dict[str, Callable[[IO[str]], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}
