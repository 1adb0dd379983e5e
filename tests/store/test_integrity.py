"""A file that was cut off, at whatever byte, is never read as what was written."""

import json
from pathlib import Path

import pytest

from qlora_repro.errors import StoreError
from qlora_repro.records import Metric
from qlora_repro.store.integrity import (
    CHECKSUMS,
    describe_corruption,
    is_complete,
    write_checksummed,
    write_checksums,
)
from qlora_repro.store.runs import RunFolder, open_store, read_json_lines

METRICS = [
    Metric(run_id="r", task=f"t{n}", name="acc", value=n / 4, stderr=None, n=4) for n in range(3)
]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path, told: list[str]) -> RunFolder:
    """A run with records and a document, as a stage leaves them."""
    made = open_store(tmp_path, warn=told.append).folder("tiny", "abc")
    made.write_records("metrics.jsonl", METRICS)
    made.write_json("train.json", {"tokens": 1234, "steps": [{"loss": 1.5}]})
    return made


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.json"])
def test_a_record_file_cut_off_at_any_byte_is_named_and_counts_as_missing(
    name: str, folder: RunFolder, told: list[str]
) -> None:
    path = folder.path / name
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert not folder.has(name)
        assert told.pop() == (
            f"{path} has {size:,} bytes, and {len(content):,} were written; it is made again"
        )
        with pytest.raises(StoreError, match="were written; run the command that made it again"):
            folder.read_records(name, Metric)
    path.write_bytes(content)
    assert folder.has(name)


def test_a_ledger_cut_off_at_any_byte_vouches_for_nothing_but_the_whole_one(
    folder: RunFolder,
) -> None:
    ledger = folder.path / CHECKSUMS
    content = ledger.read_bytes()
    for size in range(len(content) - 1):  # the last byte ends the line and says nothing
        ledger.write_bytes(content[:size])
        assert not folder.has("metrics.jsonl")
        assert not folder.has("train.json")
    ledger.write_bytes(content[:-1])
    assert folder.read_records("metrics.jsonl", Metric) == METRICS


def test_what_is_written_again_after_a_cut_is_whole(folder: RunFolder) -> None:
    (folder.path / CHECKSUMS).write_bytes(b"{")
    folder.write_records("metrics.jsonl", METRICS[:1])
    assert folder.read_records("metrics.jsonl", Metric) == METRICS[:1]
    assert not folder.has("train.json")


def test_a_byte_that_changed_in_place_is_found(folder: RunFolder) -> None:
    path = folder.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.75"))
    assert not folder.has("metrics.jsonl")


def test_a_crash_between_ledger_and_file_leaves_the_file_missing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_repro.store import integrity as module

    write = module.write_atomic

    def crashing(path: Path, text: str, **_: object) -> None:
        if path.name != CHECKSUMS:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(module, "write_atomic", crashing)
    for name in ("metrics.jsonl", "new.jsonl"):  # written over, and written first
        with pytest.raises(KeyboardInterrupt):
            write_checksummed(folder.path / name, "{}\n")
        assert not folder.has(name)


@pytest.mark.parametrize("name", ["weights.safetensors", "trainer_state.json", CHECKSUMS])
def test_a_checkpoint_with_any_file_cut_off_at_any_byte_is_not_whole(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bytes(range(64)))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 3}))
    write_checksums(tmp_path)
    assert is_complete(tmp_path)
    content = (tmp_path / name).read_bytes()
    for size in range(len(content) - (name == CHECKSUMS)):
        (tmp_path / name).write_bytes(content[:size])
        assert not is_complete(tmp_path)
        assert not is_complete(tmp_path, contents=False)


def test_a_checkpoint_without_a_file_or_a_mark_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert not is_complete(tmp_path)
    write_checksums(tmp_path)
    (tmp_path / "a").unlink()
    assert not is_complete(tmp_path)


def test_folders_of_older_stores_are_read_and_a_line_cut_in_the_middle_is_found(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n')
    assert read_json_lines(path) == [{"n": 1}, {"n": 2}]
    path.write_text('{"n": 1}\n{"n": 2')
    assert describe_corruption(path) == "is cut off in the middle of a line"
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "a").write_text("abc")
    (tmp_path / "checkpoint" / CHECKSUMS).write_text('{"a": 3}')
    assert is_complete(tmp_path / "checkpoint")
