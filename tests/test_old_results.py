"""A results folder of the code before: it is read, resumed and locked against."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from qlora_repro.config.schema import RunConfig
from qlora_repro.records import CellState, Manifest
from qlora_repro.store.cell import find_cell
from qlora_repro.sweep.run_cell import run_cell

OLD = Path(__file__).parent / "fixtures" / "old_results"
RUN = "tiny-nf4-dq-qv-r1-procedural-s0-f528d5358699"
FAILED = "tiny-nf4-dq-qv-r1-procedural-s0-fa8fd6149094"
SMALL = ("model=tiny", "train.max_steps=2", "data.rows=8", "lora=qv", "lora.r=1")
EVAL = ("eval.n=1", "eval.tasks=[procedural_mc]")
Configured = Callable[..., RunConfig]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "results"))


def document(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_finished_run_is_read_and_nothing_is_left_to_do(
    results: Path, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlora_repro.session.load_base", None)
    cfg = configured(*SMALL, *EVAL, f"results_dir={results}")
    outcome = run_cell(cfg, rerun="")
    assert (outcome.state, outcome.why) == (CellState.IN_STORE, "")
    assert outcome.result is not None
    assert outcome.result.folder == results / RUN
    summary = document(next((results / RUN).glob("summary-*.json")))
    assert [line.task for line in outcome.result.lines] == [s["task"] for s in summary["lines"]]


def test_a_manifest_is_written_back_as_it_was() -> None:
    for path in OLD.glob("*/manifest.json"):
        manifest = Manifest.from_json(document(path))
        assert json.dumps(manifest.to_json(), indent=2) + "\n" == path.read_text()


def test_an_evaluation_that_is_missing_is_made_with_the_old_weights(
    results: Path, configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    (metrics,) = (results / RUN).glob("metrics-*.jsonl")
    before = metrics.read_text()
    metrics.unlink()
    cfg = configured(*SMALL, *EVAL, f"results_dir={results}")
    assert run_cell(cfg, rerun="").state == CellState.DONE
    assert "training: in the store, skipped" in capsys.readouterr().out
    assert metrics.read_text() == before


def test_a_failure_is_known_and_gone_once_its_run_is_started_again(
    results: Path, configured: Configured
) -> None:
    note = results / FAILED / "failed.json"
    assert CellState(document(note)["state"]) == CellState.FAILED
    words = (*SMALL, "eval=none", "stages=[train]", "train.lr=inf", f"results_dir={results}")
    cfg = configured(*words)
    assert find_cell(cfg).folder.path == results / FAILED
    assert run_cell(cfg, rerun="again").state == CellState.FAILED
    assert document(note)["rerun"] == "again"
    assert document(note)["why"] == document(OLD / FAILED / "failed.json")["why"]


def test_a_lock_of_the_code_before_keeps_others_off(results: Path, configured: Configured) -> None:
    (metrics,) = (results / RUN).glob("metrics-*.jsonl")
    metrics.unlink()
    cfg = configured(*SMALL, *EVAL, f"results_dir={results}")
    (results / ".claims").mkdir()
    with SoftFileLease(results / ".claims" / RUN, lease_duration=60.0, timeout=0):
        outcome = run_cell(cfg, rerun="", wait=False)
    assert outcome.state == CellState.BUSY
    assert not metrics.exists()
