"""Figure 3 as a table, from scores that are known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import stored
from statsmodels.stats.weightstats import DescrStatsW

from analysis.tables import fig3_zeroshot_by_bits
from qlora_repro.records import Answer, Metric

DIGEST = "0123456789ab"


def score(task: str, value: float) -> Metric:
    return Metric(run_id="r", task=task, name="acc", value=value, stderr=0.03, n=100)


def test_tasks_on_files_at_hand_count_and_the_model_is_said_to_stand_in(tmp_path: Path) -> None:
    folder = stored.make_run(tmp_path, "nf4")
    stored.write(folder, "metrics", [score("piqa_file", 0.6), score("hellaswag_file", 0.4)])
    table = fig3_zeroshot_by_bits.build_table(tmp_path)
    (row,) = table.frame.to_dict("records")
    assert (row["model"], row["ours"], row["n"]) == (
        "stand-in small",
        "50.0",
        "2 tasks, 200 questions",
    )
    half = 100 * 1.96 * 0.03 / 2**0.5
    low, high = (float(end) for end in row["95% interval"].strip("[]").split(", "))
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.05)
    assert float(row["bits"]) == pytest.approx(8 * 562 + 16 * 100, rel=0.01)
    assert table.runs == (folder.name,)


def test_a_benchmark_asked_twice_counts_once(tmp_path: Path) -> None:
    folder = stored.make_run(tmp_path, "nf4")
    stored.write(folder, "metrics", [score("piqa", 0.6), score("piqa_file", 0.2)])
    (row,) = fig3_zeroshot_by_bits.build_table(tmp_path).frame.to_dict("records")
    assert (row["ours"], row["n"]) == ("60.0", "1 tasks, 100 questions")


def test_a_limit_and_uncommitted_changes_are_told(tmp_path: Path) -> None:
    folder = stored.make_run(tmp_path, "nf4")
    stored.write(folder, "metrics", [score("piqa", 0.6)])
    (folder / f"settings-{DIGEST}.json").write_text(json.dumps({"eval": {"limit": 20}}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["provenance"]["dirty"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    notes = fig3_zeroshot_by_bits.build_table(tmp_path).notes
    assert f"{folder.name}: limit 20" in notes
    assert f"{folder.name}: the code had uncommitted changes" in notes


def test_nf4_is_compared_on_the_same_questions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    right = {dtype: rng.random(400) < rate for dtype, rate in (("nf4", 0.6), ("fp4", 0.5))}
    for dtype, values in right.items():
        folder = stored.make_run(tmp_path, dtype)
        stored.write(folder, "metrics", [score("piqa", float(values.mean()))])
        answers = [
            Answer(run_id="r", task="piqa", name="acc", doc_id=i, doc_hash=str(i), value=float(hit))
            for i, hit in enumerate(values)
        ]
        stored.write(folder, "answers", answers)
    rows = fig3_zeroshot_by_bits.build_table(tmp_path).frame.set_index("data type")
    gained = right["nf4"].astype(float) - right["fp4"]
    low, high = DescrStatsW(gained).zconfint_mean()
    said = f"{100 * gained.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    assert rows.loc["fp4", "NF4 against it"] == said
    assert rows.loc["nf4", "NF4 against it"] == "-"
    n = int(rows.loc["fp4", "questions to tell 1 point"].replace(",", ""))
    assert n == pytest.approx((1.95996 + 0.84162) ** 2 * gained.var(ddof=1) / 0.01**2, rel=0.001)


def test_where_no_answer_differs_nothing_says_how_many_would() -> None:
    same = [np.zeros(10)]
    assert fig3_zeroshot_by_bits.format_difference(same) == "+0.0 [+0.0, +0.0]"
    assert math.isnan(fig3_zeroshot_by_bits.questions_needed(same))


def test_without_answers_nothing_is_compared(tmp_path: Path) -> None:
    for dtype in ("nf4", "fp4"):
        stored.write(stored.make_run(tmp_path, dtype), "metrics", [score("piqa", 0.6)])
    rows = fig3_zeroshot_by_bits.build_table(tmp_path).frame
    assert (rows["NF4 against it"] == "-").all()
