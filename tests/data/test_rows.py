import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qlora_repro.config.schema import ColumnsConfig, DataConfig
from qlora_repro.data.datasets import load_examples
from qlora_repro.errors import DataError
from qlora_repro.records import Example

ROWS = [
    {"q": 'Say "hi", twice', "a": "hi hi", "kind": "echo"},
    {"q": "Zwei plus zwei\nist?", "a": "4", "kind": "sum"},
    {"q": "NA", "a": "None", "kind": "echo"},
]
WANTED = [
    Example(source=f"{row['q']}\nAnswer:", target=f" {row['a']}", task=row["kind"]) for row in ROWS
]


def config(path: Path | str, **changes: Any) -> DataConfig:
    fields: dict[str, Any] = {
        "name": "local",
        "path": str(path),
        "revision": None,
        "split": "train",
        "config_name": None,
        "template": "plain",
        "columns": ColumnsConfig(source="q", target="a", task="kind"),
        "tasks": None,
        "rows": None,
        "holdout": 0,
        "wrong": 0.0,
        "seed": 0,
        "max_source_len": 64,
        "max_target_len": 8,
        "train_on_source": False,
        "truncated_eos": True,
        "rows_per_task": None,
        "examples": 0,
        "mix": None,
        "kind": None,
        "loader": None,
        "max_truncated": 0.05,
    }
    return DataConfig(**(fields | changes))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if ".csv" in path.suffixes:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        elif ".jsonl" in path.suffixes:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            json.dump(rows, file)
    return path


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.csv", "a.parquet", "b.json.gz", "b.jsonl.gz", "b.CSV.gz"]
)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name.lower(), ROWS).rename(tmp_path / name)
    assert load_examples(config(path)) == WANTED


def test_reading_writes_nothing_beside_the_file(tmp_path: Path) -> None:
    load_examples(config(write(tmp_path / "a.csv", ROWS)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_a_byte_order_mark_and_numbers_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q,a,kind\n1+1,2,sum\n", encoding="utf-8-sig")
    assert load_examples(config(path))[0].target == " 2"
    path = write(tmp_path / "a.jsonl", [{"q": "1+1", "a": 2, "kind": None}])
    assert load_examples(config(path)) == [Example(source="1+1\nAnswer:", target=" 2")]


def test_rows_and_tasks_choose(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    assert load_examples(config(path, tasks=["echo"])) == [WANTED[0], WANTED[2]]
    two = load_examples(config(path, rows=2))
    assert len(two) == 2
    assert two == [row for row in WANTED if row in two]
    with pytest.raises(DataError, match="has no row of that task"):
        load_examples(config(path, tasks=["ecko"]))


def refused(path: Path, message: str, **changes: Any) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_examples(config(path, **changes))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_suffix_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "no.csv", "no.csv is not a file")
    refused(tmp_path / "a.xlsx", "does not end in one of .json, .jsonl, .csv, .parquet")
    refused(tmp_path / "a.parquet.gz", "does not end in one of")
    refused(tmp_path / "plain", "does not end in one of")


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"question": "x", "answer": "y"}])
    columns = ColumnsConfig(source="quest", target="answer", task=None)
    refused(
        path,
        "row 1: there is no column 'quest' among question, answer; the nearest is 'question'",
        columns=columns,
    )


@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_an_empty_target_names_its_row(tmp_path: Path, empty: str | None) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, ROWS[0] | {"a": empty}])
    refused(path, "row 4: the target column 'a' is empty")


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.json", "[]"), ("a.jsonl", "\n\n"), ("a.csv", "q,a\n")):
        path = tmp_path / name
        path.write_text(content)
        refused(path, f"{name} has no rows")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"q": 1}', "holds one dict, and must hold a list of rows"),
        ("a.json", b'{"q": 1}\n{"q": 2}', "must end in .jsonl"),
        ("a.json", b"[1, 2]", "row 1 is a int"),
        ("a.jsonl", b'{"q": "x", "a": "y"}\n{"q": ', "line 2 is not JSON"),
        ("a.csv", b"q,a\nx,y,z\n", "row 1 has more fields than the header"),
        ("a.csv", b'q,a\n"x,y\n', "cannot be read as csv"),
        ("a.csv", b"q,a\n\xff,y\n", "cannot be read as csv"),
        ("a.csv.gz", b"q,a\n", "cannot be read as csv"),
        ("a.parquet", b"nothing", "cannot be read as parquet"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, message, columns=ColumnsConfig(source="q", target="a", task=None))


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": ["x"], "a": "y", "kind": ""}])
    refused(path, "row 1: column 'q' holds list values")


def test_a_config_without_columns_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a.csv", "data.columns is null", columns=None)
