import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qlora_repro.errors import StoreError
from qlora_repro.records import Metric
from qlora_repro.store.integrity import write_atomic
from qlora_repro.store.runs import FORMAT, open_store

METRIC = Metric(run_id="r", task="mmlu", name="acc", value=0.25, stderr=None, n=4)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    folder = open_store(tmp_path).folder("tiny", "abc")
    assert not folder.has("metrics.jsonl")
    folder.write_records("metrics.jsonl", [METRIC, METRIC])
    assert folder.has("metrics.jsonl")
    assert folder.read_records("metrics.jsonl", Metric) == [METRIC, METRIC]
    assert folder.path.name == "tiny-abc"


def test_failed_write_leaves_nothing_and_the_older_file_as_it_was(tmp_path: Path) -> None:
    folder = open_store(tmp_path).folder("tiny", "abc")
    folder.write_records("metrics.jsonl", [METRIC])
    with pytest.raises(TypeError):
        folder.write_records("metrics.jsonl", [METRIC, object()])
    assert folder.read_records("metrics.jsonl", Metric) == [METRIC]
    assert sorted(p.name for p in folder.path.iterdir()) == ["metrics.jsonl", "whole.json"]


def test_full_disk_leaves_no_half_written_file(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: the write fails in the middle."""
    code = (
        "import resource, signal, sys, pathlib\n"
        "from qlora_repro.store.integrity import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_atomic(pathlib.Path(sys.argv[1]), 'x' * 100_000)\n"
    )
    target = tmp_path / "records.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode != 0
    assert "OSError" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_newer_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(StoreError, match=r"format 2, and this version reads up to 1; update"):
        open_store(tmp_path)


def test_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        open_store(tmp_path / "results")


def test_run_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.folder("tiny", "abc").locked():
        with (
            pytest.raises(StoreError, match="another process"),
            store.folder("tiny", "abc").locked(),
        ):
            pass
        with store.folder("tiny", "xyz").locked():
            pass
    with store.folder("tiny", "abc").locked():
        pass


def test_write_atomic_replaces_in_one_go(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    write_atomic(target, "one")
    write_atomic(target, "two")
    assert target.read_text() == "two"
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]
