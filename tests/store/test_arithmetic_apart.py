"""Runs of one model that computed in two dtypes are two models to every table."""

import json
from pathlib import Path

from stored import make_run, write

from analysis.artifacts.runs import load_evaluated_runs
from qlora_repro.records import Answer
from qlora_repro.store.load import load_runs


def in_arithmetic(folder: Path, name: str) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["decided_by"]["dtype"]["compute_dtype"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    answer = Answer(run_id="r", task="piqa", name="acc", doc_id=0, doc_hash="0", value=0.5)
    write(folder, "answers", [answer])
    return folder


def test_the_rarer_arithmetic_is_named_and_the_usual_one_is_not(tmp_path: Path) -> None:
    for dtype in ("bf16", "nf4"):
        in_arithmetic(make_run(tmp_path, dtype), "float32")
    in_arithmetic(make_run(tmp_path, "fp4"), "bfloat16")
    in_arithmetic(make_run(tmp_path, "fp32"), "float32")
    in_arithmetic(make_run(tmp_path, "nf4", model="other"), "bfloat16")
    named = dict(load_runs(tmp_path).set_index("folder")["model"])
    assert named == {
        "small-bf16-False": "small",
        "small-nf4-False": "small",
        "small-fp4-False": "small in bfloat16",
        "small-fp32-False": "small",
        "other-nf4-False": "other",
    }
    assert {run.model for run in load_evaluated_runs(tmp_path)} == {
        "small",
        "small in bfloat16",
        "other",
    }
    assert list(load_runs(tmp_path)["folder"]) == sorted(named)
