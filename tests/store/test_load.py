"""The one loader of runs, from a results folder and from the published evidence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import stored

import qlora_repro
from qlora_repro.config.paths import ROOT
from qlora_repro.errors import StoreError
from qlora_repro.store.evidence import write_evidence
from qlora_repro.store.load import (
    load_answers,
    load_documents,
    load_measurements,
    load_metrics,
    load_origins,
    load_runs,
    load_settings,
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for dtype in ("bf16", "nf4"):
        stored.write_losses(stored.make_run(tmp_path, dtype), [1.0, 2.0, 4.0], window=2)
    return tmp_path


def test_a_run_is_a_row_with_its_settings_by_dotted_name(results: Path) -> None:
    run = load_runs(results).set_index("run_id").loc["small-nf4-False"]
    assert (run["dtype"], run["dtype.blocksize"], run["dq"], run["tuned"]) == (
        "nf4",
        64,
        False,
        False,
    )
    assert run["settings"] == run["manifest"]["decided_by"]
    assert run["model_bits"] == 8 * 562 + 16 * 100


def test_a_text_is_loaded_by_window_and_metrics_as_they_are(results: Path) -> None:
    answers = load_answers(results).query("run_id == 'small-nf4-False'")
    assert list(answers["value"]) == [1.5, 4.0]
    assert list(answers["tokens"]) == [2, 1]
    assert list(load_metrics(results)["value"]) == [7 / 3, 7 / 3]
    assert (
        load_settings(results)["small-nf4-False", "0123456789ab"]["eval"]["perplexity_window"] == 2
    )


def test_what_changed_on_disk_is_read_again(results: Path) -> None:
    before = load_metrics(results)
    before.loc[:, "value"] = 0.0  # the caller's own
    shutil.rmtree(results / "small-bf16-False")
    assert list(load_metrics(results)["value"]) == [7 / 3]


def test_a_stage_is_dirty_where_its_training_was(results: Path) -> None:
    path = results / "small-nf4-False" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["provenance"]["dirty"] = True
    path.write_text(json.dumps(manifest))
    origin = {"commit": "d", "dirty": False, "finished": "2026-01-01", "command": ["run.py"]}
    (path.parent / "origin-0123456789ab.json").write_text(json.dumps(origin))
    found = load_origins(results)["small-nf4-False", "0123456789ab"]
    assert (found["commit"], found["dirty"]) == ("d", True)
    assert load_runs(results).set_index("run_id").loc["small-nf4-False", "command"] == ["run.py"]


def test_what_is_not_there_is_said_or_empty(results: Path) -> None:
    assert load_measurements("normality", results).empty
    assert load_documents("train.json", results).empty
    with pytest.raises(ValueError, match="kind='weights': it may be quant_errors, codebooks"):
        load_measurements("weights", results)
    with pytest.raises(StoreError, match="is not a folder; name one that runs were written to"):
        load_runs(results / "none")


def test_a_folder_and_its_evidence_load_alike(results: Path, tmp_path: Path) -> None:
    runs = {
        folder.name: {path.name: path.read_text() for path in folder.iterdir()}
        for folder in results.iterdir()
    }
    write_evidence(runs, tmp_path / "evidence")
    packed = load_runs(tmp_path / "evidence")
    pd.testing.assert_frame_equal(packed, load_runs(results))


def test_the_package_offers_the_loaders_and_the_published_runs_without_torch() -> None:
    code = (
        "import sys\nimport qlora_repro\n"
        "runs, answers = qlora_repro.load_runs(), qlora_repro.load_answers()\n"
        "assert set(answers['run_id']) <= set(runs['run_id'])\n"
        "print(len(runs), len(answers), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["136", "63608", "False"]
    with pytest.raises(AttributeError, match="no attribute 'load_weights'"):
        _ = qlora_repro.load_weights
