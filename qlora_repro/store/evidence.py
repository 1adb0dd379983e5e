"""Published runs, packed into a few parquet files that `pandas.read_parquet` opens.

`files.parquet` has a row for each file of each run: JSON documents (manifest, settings, origins) as
text, and for record files the fields of their rows. The records are in one table a kind
(`metrics.parquet`, `answers.parquet`, ...), a row a record, with the `run_id` of its run and the
`digest` of its stage. `runs.parquet` has the settings of each run, for readers without this
package. Nothing is lost: unpacking gives the text of every file back, byte for byte.
"""

import fnmatch
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from qlora_repro.errors import StoreError
from qlora_repro.store.cell import MANIFEST
from qlora_repro.store.run_id import flatten_settings, run_id_of

FILES = "files.parquet"
RUNS = "runs.parquet"
TRAIN = "train"  # the stage of files whose names have no digest
FILE_COLUMNS = ("run_id", "folder", "name", "text", "fields")
KEYS = ("run_id", "digest")  # columns that every record table has
JSON = {b"encoding": b"json"}  # metadata of a column whose values have more than one type
TYPES = {bool: pa.bool_(), float: pa.float64(), str: pa.string()}
EXACT = 2**53  # whole numbers up to here are exact as floats
RunFiles = Mapping[str, str]  # name of a file -> its text


def is_evidence(path: Path) -> bool:
    """Whether a folder holds packed runs."""
    return (path / FILES).is_file()


def split_name(name: str) -> tuple[str, str]:
    """Return the kind of a file and the digest of its stage.

    >>> split_name("metrics-0123456789ab.jsonl"), split_name("steps.jsonl")
    (('metrics', '0123456789ab'), ('steps', 'train'))
    """
    kind, _, digest = PurePosixPath(name).stem.rpartition("-")
    return (kind, digest) if kind else (digest, TRAIN)


def read_texts(evidence: Path, pattern: str) -> Iterator[tuple[str, str, str]]:
    """Yield (folder, name, text) of the documents whose name matches a glob pattern, in order."""
    matches = re.compile(fnmatch.translate(pattern)).fullmatch
    rows = _read_table(evidence, FILES).select(["folder", "name", "text"]).to_pydict()
    texts = zip(*rows.values(), strict=True)
    yield from sorted(row for row in texts if row[2] is not None and matches(row[1]))


def read_records(evidence: Path, kind: str) -> pd.DataFrame:
    """Read all records of a kind; empty, and without columns, where there are none."""
    path = evidence / f"{kind}.parquet"
    if not path.is_file():
        return pd.DataFrame()
    with _refuse_corrupt(path):
        table = pq.read_table(path, page_checksum_verification=True)
    frame: pd.DataFrame = table.to_pandas()
    for field in table.schema:
        if field.metadata == JSON:
            frame[field.name] = frame[field.name].map(json.loads, na_action="ignore")
    return frame


def read_files(evidence: Path) -> dict[str, dict[str, str]]:
    """Unpack everything: folder of a run -> name of a file -> its text.

    Raises:
        StoreError: A file is corrupt.
    """
    files = _read_table(evidence, FILES).to_pylist()
    runs: dict[str, dict[str, str]] = {row["folder"]: {} for row in files}
    for row in files:
        runs[row["folder"]][row["name"]] = row["text"]
    records = sorted((row for row in files if row["text"] is None), key=_record_order)
    for kind, rows in groupby(records, key=lambda row: split_name(row["name"])[0]):
        table = _read_table(evidence, f"{kind}.parquet")
        columns = {field.name: _values(table.column(field.name), field) for field in table.schema}
        stop = 0
        for row in rows:
            lines: list[str] = []
            for part in json.loads(row["fields"]):
                start, stop = stop, stop + part["rows"]
                lines += _lines(columns, part, range(start, min(stop, len(table))))
            runs[row["folder"]][row["name"]] = "".join(lines)
        if stop != len(table):
            raise StoreError(f"{evidence / kind}.parquet does not fit {FILES}; restore both")
    return runs


@contextmanager
def unpacked_run(evidence: Path, run: str) -> Iterator[Path]:
    """Give a temporary folder with the files of one run.

    Args:
        evidence: The packed runs.
        run: The run's id, or the beginning of it.

    Raises:
        StoreError: No run, or more than one, has an id that begins so.
    """
    runs = read_files(evidence) if is_evidence(evidence) else {}
    names = [name for name in runs if run_id_of(name).startswith(run)]
    if len(names) != 1:
        count = f"{len(names)} runs have an id that begins" if names else "no run has an id"
        what = f"{count} with {run!r}" if names else f"{count} {run!r}, or one that begins so,"
        raise StoreError(f"{what} in {evidence}; name one id in full, or a run's folder")
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in runs[names[0]].items():
            path = Path(scratch, names[0], name)
            if ".." in path.parts or not path.is_relative_to(scratch):
                raise StoreError(f"{evidence} names a file outside of its run: {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
        yield Path(scratch, names[0])


def write_evidence(runs: Mapping[str, RunFiles], evidence: Path) -> None:
    """Pack runs, in the place of those that a folder held.

    Args:
        runs: Folder of a run -> name of a file -> its text; records as `json.dumps` writes them.
        evidence: The folder; it may not be there yet.

    Raises:
        StoreError: Two runs have one id, or a text would not come back as it is.
    """
    ids = pd.Series({name: run_id_of(name) for name in runs}, dtype="str")
    for run_id, names in ids.groupby(ids):
        if len(names) > 1:
            raise StoreError(f"{' and '.join(names.index)} are runs of one id, {run_id}; keep one")
    evidence.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=evidence) as scratch:
        packed = Path(scratch)
        for name, table in _tables(runs):
            _write_table(table, packed / name)
        if read_files(packed) != runs:
            raise StoreError(f"the runs for {evidence} would not be read back as they are")
        for path in packed.iterdir():
            os.replace(path, evidence / path.name)


def _read_table(evidence: Path, name: str) -> pa.Table:
    path = evidence / name
    with _refuse_corrupt(path):
        table = _read_parquet(path, path.stat().st_mtime_ns)
    missing = set(FILE_COLUMNS if name == FILES else KEYS) - set(table.column_names)
    if missing:
        raise StoreError(f"{path} has no column {min(missing)}; restore it from git")
    return table


@contextmanager
def _refuse_corrupt(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{path} cannot be read ({reason}); restore it from git") from error


@lru_cache(maxsize=16)
def _read_parquet(path: Path, changed: int) -> pa.Table:
    return pq.read_table(path, page_checksum_verification=True)


def _record_order(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the order of record files in a table: those of one stage beside each other."""
    return (*split_name(row["name"]), row["folder"])


def _tables(runs: Mapping[str, RunFiles]) -> Iterator[tuple[str, pa.Table]]:
    rows: list[dict[str, Any]] = [
        {"run_id": run_id_of(folder), "folder": folder, "name": name, "text": text, "fields": None}
        for folder, files in sorted(runs.items())
        for name, text in sorted(files.items())
    ]
    records: dict[str, list[dict[str, Any]]] = {}
    for row in sorted((row for row in rows if row["name"].endswith(".jsonl")), key=_record_order):
        kind, digest = split_name(row["name"])
        keys = {"run_id": row["run_id"], "digest": digest}
        lines = [json.loads(line) for line in row["text"].splitlines()]
        row |= {"text": None, "fields": json.dumps(_parts(lines, keys))}
        records.setdefault(kind, []).extend(keys | line | keys for line in lines)
    for kind, lines in records.items():
        yield f"{kind}.parquet", _table(lines, KEYS)
    yield FILES, _table(rows, FILE_COLUMNS)
    yield RUNS, _table([_run(row) for row in rows if row["name"] == MANIFEST], KEYS[:1])


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `runs.parquet` says of a run."""
    manifest = json.loads(row["text"])
    about = {name: manifest["provenance"].get(name) for name in ("commit", "dirty", "device")}
    keys = {"run_id": row["run_id"], "folder": row["folder"]}
    return keys | flatten_settings(manifest["decided_by"]) | about


def _parts(lines: Sequence[dict[str, Any]], keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what a table does not hold of a file: consecutive rows of equal fields.

    Each part has how many rows it is, their fields in order, which numbers are whole ones, and the
    fields that differ from the key column of their name.
    """
    parts: list[dict[str, Any]] = []
    for line in lines:
        part = {
            "fields": list(line),
            "whole": [name for name, value in line.items() if type(value) is int],
            "own": {name: line[name] for name in KEYS if line.get(name, keys[name]) != keys[name]},
        }
        if parts and parts[-1] == {"rows": parts[-1]["rows"]} | part:
            parts[-1]["rows"] += 1
        else:
            parts.append({"rows": 1} | part)
    return parts


def _lines(
    columns: Mapping[str, Sequence[Any]], part: Mapping[str, Any], positions: range
) -> Iterator[str]:
    """Yield the lines of a part of a file, as they were written."""
    for position in positions:
        row = {name: columns[name][position] for name in part["fields"]}
        row |= {n: int(row[n]) for n in part["whole"] if isinstance(row[n], float)} | part["own"]
        yield json.dumps(row) + "\n"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return a table with these columns, and those that the rows have besides."""
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    arrays = {name: _column([row.get(name) for row in rows]) for name in names}
    fields = [
        pa.field(name, array.type, metadata=JSON if is_json else None)
        for name, (array, is_json) in arrays.items()
    ]
    return pa.table([array for array, _ in arrays.values()], schema=pa.schema(fields))


def _column(values: list[Any]) -> tuple[pa.Array, bool]:
    """Return the values as an array, and whether they had to become JSON texts."""
    present = [value for value in values if value is not None]
    types = {type(value) for value in present}
    if types == {list} and {type(item) for value in present for item in value} <= {float}:
        return pa.array(values, pa.list_(pa.float64())), False
    if types == {int, float} and all(abs(v) <= EXACT for v in present if type(v) is int):
        floats = [None if value is None else float(value) for value in values]
        return pa.array(floats, pa.float64()), False
    if types == {int} and max(present) < 2**63 and min(present) >= -(2**63):
        return pa.array(values, pa.int64()), False
    if len(types) < 2 and types <= {bool, float, str}:
        return pa.array(values, TYPES[types.pop()] if types else pa.null()), False
    return pa.array([None if v is None else json.dumps(v) for v in values], pa.string()), True


def _values(column: pa.ChunkedArray, field: pa.Field) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if field.metadata != JSON:
        return values
    return [None if value is None else json.loads(value) for value in values]


def _write_table(table: pa.Table, path: Path) -> None:
    """Write a table small: repeated values once, whole numbers by difference, floats by byte."""
    repeated, encodings = [], {}
    for field in table.schema:
        if pa.types.is_list(field.type) or pa.types.is_boolean(field.type):
            continue
        if 2 * len(table.column(field.name).unique()) < len(table):
            repeated.append(field.name)
        elif pa.types.is_integer(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_floating(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_string(field.type):
            encodings[field.name] = "DELTA_BYTE_ARRAY"
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=repeated,
        column_encoding=encodings or None,
        data_page_size=1 << 24,
        write_page_checksum=True,
    )
