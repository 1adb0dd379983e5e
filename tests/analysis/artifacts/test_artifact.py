"""Which cell of which table a run is of."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scored_runs import add_run

from analysis.artifacts.runs import load_evaluated_runs
from analysis.figures import draw_figure
from analysis.paper_tables import load_table
from analysis.tables import (
    fig2_lora_coverage,
    fig4_lora_rank,
    table3_glue_superni_by_dtype,
    table8_crows_bias,
    table9_hyperparameters,
    table11_dataset_size,
)
from analysis.tables.fig4_lora_rank import ARTIFACT as RANKS

BF16 = {"dtype.name": "bf16", "dq": False}
FULL = BF16 | {"lora.target": "none"}
ALPACA = {"model.name": "llama_7b", "data.name": "alpaca"}
SUPER_NI = {"model.name": "t5_lm_xl", "data.name": "super_ni"}
GLUE = {"model.name": "roberta_large", "data.name": "glue", "data.tasks": ["rte"]}
LLAMA = {"model.name": "llama_7b", "data.name": "chip2"}
ROUGE = {"rouge/rougeL": [0.5, 0.7]}
MMLU = {"mmlu/acc": [1.0, 0.0]}
CROWS = {"crows_pairs_english_age/pct_stereotype": [1.0, 0.0]}
GROWN = {"data.rows": 100_000, "train.batch_size": 16}


@pytest.mark.parametrize(
    ("table", "settings", "scores", "cell"),
    [
        (fig2_lora_coverage, ALPACA, ROUGE, ("qlora all", "alpaca, mean of points")),
        (fig2_lora_coverage, ALPACA | {"lora.target": "ffn"}, ROUGE, ("qlora ffn", None)),
        (fig2_lora_coverage, ALPACA | FULL, ROUGE, ("16-bit full tuned", None)),
        (
            fig2_lora_coverage,
            ALPACA | FULL | {"train.batch_size": 128},
            ROUGE,
            ("16-bit full stanford", None),
        ),
        (fig4_lora_rank, ALPACA, ROUGE, ("16", "alpaca, mean of runs")),
        (table3_glue_superni_by_dtype, SUPER_NI | BF16, ROUGE, ("lora bf16", "t5_3b")),
        (table3_glue_superni_by_dtype, SUPER_NI | FULL, ROUGE, ("bf16 replication", "t5_3b")),
        (
            table3_glue_superni_by_dtype,
            SUPER_NI | {"dtype.name": "int8", "dq": False},
            ROUGE,
            ("qlora int8", "t5_3b"),
        ),
        (table3_glue_superni_by_dtype, SUPER_NI, ROUGE, ("qlora nf4 + dq", "t5_3b")),
        (
            table11_dataset_size,
            LLAMA | GROWN | {"train.max_steps": 6250},
            MMLU,
            ("100000", "chip2 1 epoch"),
        ),
        (
            table11_dataset_size,
            LLAMA | GROWN | {"train.max_steps": 18750},
            MMLU,
            ("100000", "chip2 3 epochs"),
        ),
        (
            table8_crows_bias,
            {"model.name": "llama_65b", "data.name": "oasst1"},
            CROWS,
            ("guanaco-65b", "age"),
        ),
    ],
)
def test_a_run_fills_its_cell(
    table: Any,
    settings: dict[str, Any],
    scores: dict[str, list[float]],
    cell: tuple[str, str | None],
    tmp_path: Path,
) -> None:
    add_run(tmp_path, settings, scores)
    frame = table.build_table(tmp_path).frame
    filled = frame[frame["ours"].notna()]
    assert list(filled.iloc[:, 0]) == [cell[0]]
    assert cell[1] in (None, filled.iloc[0, 1])
    assert filled["paper"].iloc[0] != "-"


def test_the_cell_of_roberta_is_the_mean_of_its_tasks(tmp_path: Path) -> None:
    tasks = table3_glue_superni_by_dtype.TASKS
    for k, task in enumerate(tasks):
        right = [1.0] * (10 + k) + [0.0] * (10 - k)
        add_run(tmp_path, GLUE | BF16 | {"data.tasks": [task]}, {"held_out/acc": right})
    frame = table3_glue_superni_by_dtype.build_table(tmp_path).frame.set_index(["method", "model"])
    mean = sum(5 * (10 + k) for k in range(len(tasks))) / len(tasks)
    assert frame.loc[("lora bf16", "roberta_large"), "ours"] == f"{mean:.1f}"
    assert frame.loc[("lora bf16", "roberta_large rte"), "paper"] == "-"


def test_bias_before_and_after_training_is_compared_by_category(tmp_path: Path) -> None:
    answers = {"crows_pairs_english_age/pct_stereotype": [1.0, 1.0, 1.0, 0.0] * 25}
    add_run(tmp_path, {"model.name": "llama_65b"}, answers, tuned=False)
    answers = {"crows_pairs_english_age/pct_stereotype": [1.0, 0.0, 0.0, 0.0] * 25}
    add_run(tmp_path, {"model.name": "llama_65b", "data.name": "oasst1"}, answers)
    frame = table8_crows_bias.build_table(tmp_path).frame.set_index(["model", "category"])
    after = frame.loc[("guanaco-65b", "age")]
    assert (after["ours"], after["difference"]) == ("25.0", "-11.3")
    assert after["effect, paper"] == "-33.8"
    assert str(after["effect, ours"]).startswith("-50.0 [")


def test_passes_of_a_stand_in_are_not_needed_where_steps_are_equal(tmp_path: Path) -> None:
    for rows in (500, 2000):
        settings = {"data.rows": rows, "train.max_steps": 125, "train.batch_size": 8}
        add_run(tmp_path, settings, {"procedural_exact/exact_match": [1.0, 0.0]})
    frame = table11_dataset_size.build_table(tmp_path).frame
    beside = frame[frame["paper"] == "-"]
    assert list(beside["rows"]) == ["500", "2000"]
    assert beside["data and passes"].str.contains("125 steps").all()


@pytest.mark.parametrize("name", ["fig2_lora_coverage", "fig4_lora_rank"])
def test_a_figure_has_a_panel_for_the_paper_and_one_for_runs(name: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        for target, r in (("all", 4), ("all", 16), ("qv", 16)):
            settings = {"lora.target": target, "lora.r": r, "seed": seed}
            add_run(tmp_path, settings, {"procedural_exact/exact_match": [1.0, seed]})
    assert len(load_evaluated_runs(tmp_path)) == 6
    paper, runs = draw_figure(name, tmp_path).axes
    assert paper.get_title().startswith("the paper")
    assert "stand-in" in runs.get_title()
    heights = {float(y) for line in runs.get_lines() for y in line.get_ydata()}
    assert heights >= {50.0, 100.0}


def test_a_figure_leaves_out_rows_of_several_settings(tmp_path: Path) -> None:
    for target, rate in (("all", 1e-4), ("all", 1e-3), ("qv", 1e-4), ("ffn", 1e-4)):
        settings = {"lora.target": target, "train.lr": rate}
        add_run(tmp_path, settings, {"procedural_exact/exact_match": [1.0, 0.0]})
    _, runs = draw_figure("fig2_lora_coverage", tmp_path).axes
    assert {text.get_text() for text in runs.get_xticklabels()} == {"qlora qv", "qlora ffn"}


def test_ranks_of_figure_4_are_set_against_the_smallest() -> None:
    assert RANKS.base_row(["64", "8", "16"]) == "8"


def planned(root: Path, name: str, length: int | None, **train: float) -> None:
    folder = root / name
    folder.mkdir()
    (folder / "plan-0.jsonl").write_text("{}\n")
    decided = {
        "model": {"name": "llama_33b"},
        "data": {"name": "alpaca", "max_source_len": 384, "max_target_len": 128},
        "train": {"batch_size": 32, "lr": 1e-4, "max_steps": 5000} | train,
        "plan": {"length": length},
    }
    (folder / "settings-0.json").write_text(json.dumps(decided))


def test_settings_are_read_off_plans_and_differences_are_told(tmp_path: Path) -> None:
    planned(tmp_path, "a", None, lr=2e-4)
    planned(tmp_path, "b", 512, batch_size=1)  # of Figure 6
    table = table9_hyperparameters.build_table(tmp_path)
    assert len(table.frame) == len(load_table(table9_hyperparameters.STEM))
    found = table.frame.set_index(["model and data", "setting"])
    batch, rate = (found.loc[("33b: all others", name)] for name in ("batch_size", "lr"))
    assert (batch["paper"], batch["ours"], batch["difference"], batch["n"]) == (
        *("32", "32", "none", "1"),
    )
    assert (rate["ours"], rate["difference"]) == ("0.0002", "+0.0001")
    assert pd.isna(found.loc[("65b: oasst1", "lr"), "ours"])
    planned(tmp_path, "c", None)
    rate = table9_hyperparameters.build_table(tmp_path).frame.set_index(
        ["model and data", "setting"]
    )
    assert rate.loc[("33b: all others", "lr"), "ours"] == "0.0001, 0.0002"
