"""Files of json lines that users give: questions, answers, matches.

A file of the user's own: json, jsonl, csv or parquet, its columns mapped by name.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from qlora_repro.config.schema import DataConfig
from qlora_repro.data.instruction_datasets import Row, example, text
from qlora_repro.errors import DataError
from qlora_repro.records import Example


def json_lines(path: Path, *, subject: str, instead: str) -> list[tuple[str, Any]]:
    """Return (where it stands, its value) of each line that is not empty.

    subject, instead: what cannot be read, and what to give for it, as an error says them. Raises
    DataError for a file that cannot be read, and for a line that is not JSON, with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{subject} cannot be read ({type(error).__name__}); {instead}") from error
    rows = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]
    return [(where, _value(line, where)) for where, line in rows if line.strip()]


def _value(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}); one object a line is read") from error


def from_file(cfg: DataConfig) -> list[Example]:
    """Return every row of the file `cfg.path` as an example.

    The source column is the instruction that `cfg.template` puts into a prompt.
    Raises DataError when the file is missing, empty or not what its suffix says, when it lacks a
    column, and for a row whose target is empty, by its number (the first row is 1).
    """
    if not cfg.path:
        raise DataError("data.path is empty, and data=local needs a file; give data.path=FILE")
    if cfg.columns is None:
        raise DataError(
            "data.columns is null, and data=local needs to know its columns; give "
            "data.columns.source and data.columns.target"
        )
    path = Path(cfg.path).expanduser()
    columns = cfg.columns
    rows = []
    for number, row in enumerate(read(path), start=1):
        try:
            task = text(row, columns.task) if columns.task else ""
            made = example(
                cfg.template, text(row, columns.source), text(row, columns.target), task=task
            )
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        if not made.target:
            raise DataError(
                f"{path}, row {number}: the target column {columns.target!r} is empty; every row "
                "needs an answer to learn"
            )
        rows.append(made)
    if not rows:
        raise DataError(f"{path} has no rows; training needs at least one")
    return rows


def read(path: Path) -> list[Row]:
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
            found: list[Row] = pq.read_table(path).to_pylist()
            return found
        opener: Callable[..., IO[str]] = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:  # -sig: drops a BOM
            return list(READERS[name](file))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as {name[1:]}: {reason}") from error


def _json(file: IO[str]) -> Iterator[Row]:
    try:
        rows = json.load(file)
    except json.JSONDecodeError as error:
        hint = "; a file with one object a line must end in .jsonl"
        raise DataError(f"{error}{hint if error.msg == 'Extra data' else ''}") from error
    if not isinstance(rows, list):
        raise DataError(f"the file holds one {type(rows).__name__}, and must hold a list of rows")
    for number, row in enumerate(rows, start=1):
        yield _object(row, number)


def _jsonl(file: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield _object(json.loads(line), number)
        except json.JSONDecodeError as error:
            raise DataError(f"line {number} is not JSON: {error.msg}") from error


def _csv(file: IO[str]) -> Iterator[Row]:
    for number, row in enumerate(csv.DictReader(file, strict=True), start=1):
        if None in row:
            raise DataError(f"row {number} has more fields than the header")
        yield row


def _object(row: Any, number: int) -> Row:
    if not isinstance(row, dict):
        raise DataError(
            f"row {number} is a {type(row).__name__}, and must be an object with named columns"
        )
    return row


READERS: dict[str, Callable[[IO[str]], Iterator[Row]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
}
