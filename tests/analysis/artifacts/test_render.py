"""Tables of cells from stores whose scores are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scored_runs import DIGEST, add_run

from analysis.paper_tables import load_table
from analysis.tables import table4_mmlu_by_dtype, table5_mmlu_by_dataset, table10_train_on_source
from analysis.tables.table4_mmlu_by_dtype import build_table

PAPERS = {"model.name": "llama_7b", "data.name": "alpaca"}
EXACT = "procedural_exact/exact_match"


def right(share: float, n: int = 100) -> list[float]:
    """Return answers of which this share is right."""
    return [1.0] * round(share * n) + [0.0] * (n - round(share * n))


def row(root: Path, *key: str, of: Any = table4_mmlu_by_dtype) -> dict[str, str | None]:
    frame = of.build_table(root).frame
    (found,) = frame[(frame.iloc[:, 0] == key[0]) & (frame.iloc[:, 1] == key[1])].to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_a_cell_of_the_papers_is_ours_less_the_printed_number(tmp_path: Path) -> None:
    add_run(tmp_path, PAPERS, {"mmlu/acc": right(0.4, 200)})
    cell = row(tmp_path, "nf4 + dq", "llama_7b alpaca")
    assert (cell["paper"], cell["ours"], cell["difference"]) == ("39.0", "40.0", "+1.0")
    assert (cell["n"], cell["seeds"]) == ("200", "1")
    wilson = stats.binomtest(80, 200).proportion_ci(0.95, method="wilson")
    assert cell["95% interval"] == f"[{100 * wilson.low:.1f}, {100 * wilson.high:.1f}]"


def test_no_right_answer_is_no_certainty_that_there_is_none(tmp_path: Path) -> None:
    add_run(tmp_path, PAPERS, {"mmlu/acc": right(0.0, 100)})
    cell = row(tmp_path, "nf4 + dq", "llama_7b alpaca")
    assert (cell["ours"], cell["95% interval"]) == ("0.0", "[0.0, 3.7]")


def test_what_is_no_share_has_students_interval(tmp_path: Path) -> None:
    values = np.array([0.2, 0.4, 0.9, 0.5])
    add_run(tmp_path, PAPERS, {"mmlu/acc": list(values)})
    low, high = stats.t.interval(0.95, 3, 50, stats.sem(100 * values))
    cell = row(tmp_path, "nf4 + dq", "llama_7b alpaca")
    assert cell["95% interval"] == f"[{low:.1f}, {high:.1f}]"


def test_every_printed_cell_is_there_and_missing_ones_are_counted(tmp_path: Path) -> None:
    add_run(tmp_path, PAPERS, {"mmlu/acc": right(0.4)})
    table = build_table(tmp_path)
    cells = load_table(table4_mmlu_by_dtype.STEM)
    shown = list(zip(table.frame.iloc[:, 0], table.frame.iloc[:, 1], strict=True))
    assert shown == list(zip(cells["row"], cells["column"], strict=True))
    assert table.frame["ours"].isna().sum() == len(cells) - 1
    assert table.notes[0].startswith("1 of the paper's 24 cells have runs here; for the others: ")
    assert "erratum, nf4 + dq: mean: its cells give 52.99" in table.notes


def test_mmlu_is_the_mean_over_subjects_and_not_over_questions(tmp_path: Path) -> None:
    add_run(tmp_path, PAPERS, {"mmlu_a/acc": right(1.0, 300), "mmlu_b/acc": right(0.0, 100)})
    assert row(tmp_path, "nf4 + dq", "llama_7b alpaca")["ours"] == "50.0"


def test_a_mean_waits_for_all_of_its_cells(tmp_path: Path) -> None:
    of = table10_train_on_source
    for share, data in ((0.1, "unnatural"), (0.2, "chip2"), (0.3, "alpaca")):
        settings = PAPERS | {"data.name": data, "data.train_on_source": False}
        add_run(tmp_path, settings, {"mmlu/acc": right(share)})
    assert pd.isna(row(tmp_path, "target", "mean", of=of)["ours"])
    settings = PAPERS | {"data.name": "flan_v2", "data.train_on_source": False}
    add_run(tmp_path, settings, {"mmlu/acc": right(0.8)})
    cell = row(tmp_path, "target", "mean", of=of)
    assert (cell["ours"], cell["difference"], cell["n"]) == ("35.0", "-3.6", "400")


def grid(root: Path, gain: float, *, seeds: int = 3, noise: float = 0.0) -> None:
    """Write 16-bit and NF4 runs on a stand-in; NF4 gains, and moves by `noise` with its seed."""
    for seed in range(seeds):
        moved = noise * (seed - (seeds - 1) / 2)
        for dtype, share in (("bf16", 0.4), ("nf4", 0.4 + gain + moved)):
            settings = {"dtype.name": dtype, "dq": dtype == "nf4", "seed": seed}
            add_run(root, settings, {EXACT: right(share, 1000)})


STAND_IN = "stand-in smollm2_135m procedural, % exact"


def test_a_stand_in_is_named_and_compared_with_itself_alone(tmp_path: Path) -> None:
    grid(tmp_path, 0.05)
    base, cell = (row(tmp_path, name, STAND_IN) for name in ("bf16", "nf4 + dq"))
    assert (cell["paper"], cell["difference"]) == ("-", "-")
    assert (cell["ours"], base["ours"], base["effect, ours"]) == ("45.0", "40.0", "base")
    assert str(cell["effect, ours"]).startswith("+5.0 [")
    assert cell["verdict"] == "higher"
    cells = load_table(table4_mmlu_by_dtype.STEM).pivot(
        index="row", columns="column", values="value"
    )
    inner = (cells.loc["nf4 + dq"] - cells.loc["bf16"]).drop("mean")
    assert cell["effect, paper"] == f"{inner.mean():+.1f}"
    notes = build_table(tmp_path).notes
    assert "smollm2_135m: a stand-in" in notes


def test_an_effect_within_the_noise_of_repeats_is_not_resolved(tmp_path: Path) -> None:
    grid(tmp_path, 0.05, noise=0.04)
    cell = row(tmp_path, "nf4 + dq", STAND_IN)
    differences = 100 * (0.05 + 0.04 * np.array([-1, 0, 1]))
    floor = stats.t.isf(0.025, 2) * differences.std(ddof=1) / 3**0.5
    assert cell["noise"] == f"{floor:.1f}"
    assert floor > 5
    assert cell["verdict"] == "not resolved"


def test_one_seed_resolves_nothing_however_large_the_effect(tmp_path: Path) -> None:
    grid(tmp_path, 0.5, seeds=1)
    cell = row(tmp_path, "nf4 + dq", STAND_IN)
    assert (cell["noise"], cell["verdict"]) == ("not known", "not resolved, no repeats")


def test_a_stand_in_of_one_row_is_left_out(tmp_path: Path) -> None:
    add_run(tmp_path, {}, {EXACT: right(0.4)})
    assert len(build_table(tmp_path).frame) == len(load_table(table4_mmlu_by_dtype.STEM))


def test_settings_with_more_seeds_stand_in_a_cell_whatever_they_score(tmp_path: Path) -> None:
    grid(tmp_path, 0.05)
    add_run(tmp_path, {"train.lr": 1e-3}, {EXACT: right(0.9, 1000)})
    assert row(tmp_path, "nf4 + dq", STAND_IN)["ours"] == "45.0"


def test_equally_many_seeds_are_both_shown_with_what_they_differ_in(tmp_path: Path) -> None:
    grid(tmp_path, 0.05, seeds=1)
    add_run(tmp_path, {"train.lr": 1e-3}, {EXACT: right(0.9, 1000)})
    frame = build_table(tmp_path).frame
    ours = frame.loc[(frame["data type"] == "nf4 + dq") & (frame["paper"] == "-"), "ours"]
    assert sorted(ours) == ["45.0 (lr=0.0002)", "90.0 (lr=0.001)"]


def test_runs_that_differ_in_more_than_the_tables_own_are_not_compared(tmp_path: Path) -> None:
    add_run(tmp_path, {"dtype.name": "bf16", "dq": False}, {EXACT: right(0.4)})
    add_run(tmp_path, {"train.max_steps": 500}, {EXACT: right(0.5)})
    assert len(build_table(tmp_path).frame) == len(load_table(table4_mmlu_by_dtype.STEM))


def test_an_untuned_model_is_the_base_of_every_kind_of_data(tmp_path: Path) -> None:
    of = table5_mmlu_by_dataset
    add_run(tmp_path, {}, {EXACT: right(0.2)}, tuned=False)
    for seed in (0, 1):
        for wrong, share in ((0.0, 0.5), (0.3, 0.3)):
            add_run(tmp_path, {"seed": seed, "data.wrong": wrong}, {EXACT: right(share)})
    column = "stand-in smollm2_135m, % exact"
    assert row(tmp_path, "none", column, of=of)["seeds"] == "none trained"
    for name, effect in (
        ("procedural", "+30.0"),
        ("procedural, tasks=-, rows=640, wrong=0.3", "+10.0"),
    ):
        assert str(row(tmp_path, name, column, of=of)["effect, ours"]).startswith(effect)


def test_what_is_no_figure_to_publish_is_marked(tmp_path: Path) -> None:
    folder = tmp_path / add_run(tmp_path, PAPERS, {"mmlu/acc": right(0.4)})
    (folder / f"origin-{DIGEST}.json").write_text(json.dumps({"dirty": True}))
    (folder / f"settings-{DIGEST}.json").write_text(json.dumps({"eval": {"limit": 20}}))
    ours = row(tmp_path, "nf4 + dq", "llama_7b alpaca")["ours"]
    assert ours == "40.0 (uncommitted changes) (limit 20)"


@pytest.mark.parametrize(("state", "shown"), [("out of memory", "OOM"), ("failed", "failed")])
def test_a_run_that_failed_is_not_merely_missing(tmp_path: Path, state: str, shown: str) -> None:
    folder = tmp_path / "llama_65b-bf16-all-r64-alpaca-s0-0123456789ab"
    folder.mkdir()
    (folder / "failed.json").write_text(json.dumps({"state": state, "why": "."}))
    assert row(tmp_path, "bf16", "llama_65b alpaca")["ours"] == shown
    assert "0 of the paper's 24 cells have runs here, 1 failed" in build_table(tmp_path).notes[0]


def test_answers_without_a_score_are_left_out_and_counted(tmp_path: Path) -> None:
    add_run(tmp_path, PAPERS, {"mmlu/acc": [1.0, 0.0, float("nan"), 1.0]})
    cell = row(tmp_path, "nf4 + dq", "llama_7b alpaca")
    assert (cell["ours"], cell["n"]) == ("66.7", "3")
    assert "1 answers have no score and are left out" in build_table(tmp_path).notes


def test_cells_never_seen_are_dashes_but_for_the_score(tmp_path: Path) -> None:
    frame = build_table(tmp_path).frame
    assert set(frame["n"]) == {"-"}
    assert pd.isna(frame["ours"]).all()
