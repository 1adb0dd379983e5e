"""Figure 3 as a table, from scores that are known."""

import json
from pathlib import Path

import pytest
import stored

from analysis.tables import fig3_zeroshot_by_bits
from qlora_repro.records import Metric

DIGEST = "0123456789ab"


def score(task: str, value: float) -> Metric:
    return Metric(run_id="r", task=task, name="acc", value=value, stderr=0.03, n=100)


def test_tasks_on_files_at_hand_count_and_the_model_is_said_to_stand_in(tmp_path: Path) -> None:
    folder = stored.make_run(tmp_path, "nf4")
    stored.write(folder, "metrics", [score("piqa_file", 0.6), score("hellaswag_file", 0.4)])
    table = fig3_zeroshot_by_bits.build(tmp_path)
    (row,) = table.frame.to_dict("records")
    assert (row["model"], row["ours"], row["n"]) == ("stand-in small", "50.0", "2 tasks")
    half = 100 * 1.96 * 0.03 / 2**0.5
    low, high = (float(end) for end in row["95% interval"].strip("[]").split(", "))
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.05)
    assert float(row["bits"]) == pytest.approx(8 * 562 + 16 * 100, rel=0.01)
    assert table.runs == (folder.name,)


def test_a_benchmark_asked_twice_counts_once(tmp_path: Path) -> None:
    folder = stored.make_run(tmp_path, "nf4")
    stored.write(folder, "metrics", [score("piqa", 0.6), score("piqa_file", 0.2)])
    (row,) = fig3_zeroshot_by_bits.build(tmp_path).frame.to_dict("records")
    assert (row["ours"], row["n"]) == ("60.0", "1 tasks")


def test_a_limit_and_uncommitted_changes_are_told(tmp_path: Path) -> None:
    folder = stored.make_run(tmp_path, "nf4")
    stored.write(folder, "metrics", [score("piqa", 0.6)])
    (folder / f"settings-{DIGEST}.json").write_text(json.dumps({"eval": {"limit": 20}}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["provenance"]["dirty"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    notes = fig3_zeroshot_by_bits.build(tmp_path).notes
    assert f"{folder.name}: limit 20" in notes
    assert f"{folder.name}: the code had uncommitted changes" in notes
