"""Packed runs: every file comes back as it was, and what is damaged is said in one sentence."""

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qlora_repro import records
from qlora_repro.errors import StoreError
from qlora_repro.store.evidence import read_files, unpacked_run, write_evidence
from qlora_repro.store.load import load_answers, load_documents, load_measurements, load_steps

KINDS = {
    "metrics": records.Metric,
    "answers": records.Answer,
    "generations": records.Generation,
    "judgments": records.Judgment,
    "plan": records.MemoryPlan,
    "quant_errors": records.QuantErrors,
    "codebooks": records.Codebook,
    "normality": records.Normality,
    "sram_quantiles": records.SramQuantiles,
}
ODD = [  # rows that no column of one type holds: order, null, missing, whole, large, unicode
    {"run_id": "0123456789ab", "value": 1, "text": "Grüße\n„1“ \u2028", "levels": [-1.0, 1.0]},
    {"value": 1.0, "run_id": "0123456789ab", "text": None, "levels": None},
    {"run_id": "another", "value": None, "levels": [1, 2.5]},
    {"value": -0.0, "digest": "its own", "mixed": "1", "nothing": None},
    {"value": 2**53 + 1, "mixed": 1, "exact": 0.1 + 0.2, "large": 2**64, "flag": True},
    {"value": math.inf, "mixed": True, "exact": 1e-320, "large": 1, "flag": None},
    {},
]


def to_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def run_files(scale: float) -> dict[str, str]:
    """Return the files of a run that has a record of every kind, and odd ones."""
    manifest = {"decided_by": {"model": {"name": "m"}, "seed": 1}, "provenance": {"commit": None}}
    files = {
        "manifest.json": json.dumps(manifest, indent=2) + "\n",
        "settings-ba9876543210.json": json.dumps({"eval": {"n": 1, "x": 1.0}}) + "\n",
        "steps.jsonl": to_lines([{"step": k, "loss": scale / (k + 1)} for k in range(9)]),
        "odd-ba9876543210.jsonl": to_lines(ODD),
        "empty-ba9876543210.jsonl": "",
        "adapter/whole.json": "{}\n",
    }
    for kind, record in KINDS.items():
        row = {field.name: sample(str(field.type), scale) for field in fields(record)}
        files[f"{kind}-ba9876543210.jsonl"] = to_lines([row, row | {"run_id": "0123456789ab"}])
    return files


def sample(kind: str, scale: float) -> Any:
    if "None" in kind and scale > 1:
        return None
    values = {"int": 3, "float": scale / 3, "bool": True, "list": [scale, -scale]}
    return next((value for name, value in values.items() if kind.startswith(name)), f"x{scale}")


@pytest.fixture
def runs() -> dict[str, dict[str, str]]:
    return {f"m-s{k}-{k}123456789ab": run_files(scale) for k, scale in enumerate((0.7, 1.3))}


@pytest.fixture
def packed(runs: dict[str, dict[str, str]], tmp_path: Path) -> Path:
    write_evidence(runs, tmp_path / "evidence")
    return tmp_path / "evidence"


def test_every_file_comes_back_byte_for_byte(runs: dict[str, dict[str, str]], packed: Path) -> None:
    assert read_files(packed) == runs


def test_packing_again_gives_the_same_files(packed: Path, tmp_path: Path) -> None:
    write_evidence(read_files(packed), tmp_path / "again")
    for path in packed.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_each_table_opens_in_one_line_and_its_rows_name_their_run(packed: Path) -> None:
    tables = {path.stem: path for path in packed.iterdir()}
    assert set(tables) == {*KINDS, "files", "runs", "steps", "odd", "empty"}
    assert pd.read_parquet(tables.pop("empty")).empty
    for path in tables.values():
        assert set(pd.read_parquet(path)["run_id"]) == {"0123456789ab", "1123456789ab"}
    assert list(pd.read_parquet(packed / "runs.parquet")["model.name"]) == ["m", "m"]


def test_the_packed_and_the_unpacked_run_load_alike(packed: Path) -> None:
    with unpacked_run(packed, "0123") as folder:
        for load in (
            load_steps,
            load_answers,
            lambda results: load_measurements("normality", results),
            lambda results: load_documents("settings-*.json", results),
        ):
            before, after = (load(results) for results in (folder.parent, packed))
            after = after[after["run_id"] == "0123456789ab"].reset_index(drop=True)
            pd.testing.assert_frame_equal(before, after[list(before.columns)], check_dtype=False)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("f", "no run has an id 'f', or one that begins so,"),
        ("", "2 runs have an id that begins with ''"),
    ],
)
def test_an_id_that_names_no_run_or_two_is_refused(packed: Path, run: str, says: str) -> None:
    with pytest.raises(StoreError, match=says), unpacked_run(packed, run):
        pass


def test_two_runs_of_one_id_are_refused(tmp_path: Path) -> None:
    runs = {name: run_files(1.0) for name in ("a-0123456789ab", "b-0123456789ab")}
    with pytest.raises(StoreError, match="are runs of one id, 0123456789ab; keep one"):
        write_evidence(runs, tmp_path)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def of_other_columns(path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(path)


@pytest.mark.parametrize("damage", [flip_a_byte, cut_off, of_other_columns])
@pytest.mark.parametrize("name", ["steps.parquet", "files.parquet"])
def test_a_damaged_file_is_named_in_one_sentence(
    packed: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(packed / name)
    with pytest.raises(StoreError, match=rf"{name} (cannot be read|has no column)") as error:
        read_files(packed)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("restore it from git")


def test_tables_that_do_not_fit_each_other_are_refused(packed: Path) -> None:
    steps = pd.read_parquet(packed / "steps.parquet")
    steps.head(3).to_parquet(packed / "steps.parquet", index=False)
    with pytest.raises(StoreError, match=r"steps\.parquet does not fit files\.parquet"):
        read_files(packed)


@pytest.mark.parametrize("name", ["../../outside.json", "/tmp/outside.json"])
def test_a_file_outside_of_its_run_is_never_written(tmp_path: Path, name: str) -> None:
    write_evidence({"a-0123456789ab": {name: "{}"}}, tmp_path)
    with (
        pytest.raises(StoreError, match="names a file outside of its run"),
        unpacked_run(tmp_path, "0123"),
    ):
        pass
