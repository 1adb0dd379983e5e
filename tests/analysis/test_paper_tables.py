"""The printed numbers: complete, and derived ones that do not follow are flagged, no others."""

import numpy as np
import pytest

from analysis.paper_tables import COLUMNS, PAPER, list_errata, load_column, load_grid, load_table
from analysis.table import format_signed
from analysis.tables.table2_perplexity_by_dtype import rise_in_rerun

FILES = {
    "datasets": 13,
    "fig2_lora_coverage": 16,
    "fig3_zeroshot_by_bits": 2,  # its axis: its points were never printed
    "fig4_lora_rank": 4 * 5,
    "agreement": 4,
    "fig6_memory": 4 * 4,
    "normality": 1,
    "table2_perplexity_by_dtype": 4,
    "table2_rerun": 5 * 7 + 6,
    "table1_elo": 8 * 2 + 5,
    "table3_glue_superni_by_dtype": 6 * 6 - 2,
    "table4_mmlu_by_dtype": 3 * 9,
    "table5_mmlu_by_dataset": 9 * 4,
    "table6_vicuna_vs_chatgpt": 21 * 4 + 19,
    "table7_elo": (8 + 8 + 7) * 2 + 8,
    "table8_crows_bias": 10 * 4,
    "table9_hyperparameters": 12 * 5 - 6,
    "table10_train_on_source": 2 * 5,
    "table11_dataset_size": 3 * 10 + 9,
    "table12_pairwise": 21,
    "table13_order": 7 + 5,
}


@pytest.mark.parametrize("artifact", FILES)
def test_every_cell_is_there_once_with_its_table(artifact: str) -> None:
    cells = load_table(artifact)
    assert tuple(cells.columns) == COLUMNS
    assert len(cells) == FILES[artifact]
    assert not cells.duplicated(["row", "column"]).any()
    assert cells["value"].notna().all()
    assert cells["table"].nunique() == 1


def test_every_file_of_printed_numbers_is_looked_at() -> None:
    assert {path.stem for path in PAPER.glob("*.csv")} == set(FILES)


def off(artifact: str, row: str, name: str, *, expected: float, digits: int) -> bool:
    """Whether a printed number is not what it must be, rounded either way."""
    value = load_column(artifact, name)[row]
    return abs(value - expected) > 0.5 * 10**-digits + 1e-9


def flagged(artifact: str, row: str, name: str) -> bool:
    cells = load_table(artifact).set_index(["row", "column"])["erratum"]
    return bool(cells[row, name] != "")


@pytest.mark.parametrize("row", ["bf16", "fp4", "nf4 + dq"])
def test_means_of_table_4_follow_from_its_cells_or_are_flagged(row: str) -> None:
    cells = load_table("table4_mmlu_by_dtype").query("row == @row and column != 'mean'")
    assert len(cells) == 8
    wrong = off(
        "table4_mmlu_by_dtype", row, "mean", expected=float(cells["value"].mean()), digits=1
    )
    assert wrong == flagged("table4_mmlu_by_dtype", row, "mean") == (row == "nf4 + dq")


@pytest.mark.parametrize("row", ["source and target", "target"])
def test_means_of_table_10_follow_from_its_cells(row: str) -> None:
    cells = load_table("table10_train_on_source").query("row == @row and column != 'mean'")
    assert not off(
        "table10_train_on_source", row, "mean", expected=float(cells["value"].mean()), digits=1
    )


def test_both_margins_of_table_11_follow_from_its_cells() -> None:
    cells = load_table("table11_dataset_size")
    inner = cells[(cells["row"] != "mean") & (cells["column"] != "mean")]
    assert len(inner) == 27
    for row, expected in inner.groupby("row")["value"].mean().items():
        assert not off("table11_dataset_size", str(row), "mean", expected=expected, digits=2)
    for name, expected in inner.groupby("column")["value"].mean().items():
        assert not off("table11_dataset_size", "mean", str(name), expected=expected, digits=2)


@pytest.mark.parametrize("model", ["llama_65b", "gpt-3", "opt-175b", "guanaco-65b"])
def test_averages_of_table_8_are_plain_means_or_flagged(model: str) -> None:
    cells = load_column("table8_crows_bias", model)
    mean = float(np.mean([value for row, value in cells.items() if row != "average"]))
    wrong = off("table8_crows_bias", "average", model, expected=mean, digits=1)
    assert wrong == flagged("table8_crows_bias", "average", model)


@pytest.mark.parametrize("name", ["human_vicuna", "gpt4_vicuna", "gpt4_oa"])
def test_ranks_of_table_7_are_those_of_its_ratings(name: str) -> None:
    ratings = load_column("table7_elo", name)
    order = sorted(ratings, key=lambda system: -ratings[system])
    assert load_column("table7_elo", f"{name}_rank") == {s: k for k, s in enumerate(order, 1)}


def test_median_ranks_of_table_7_are_medians_within_half_a_rank() -> None:
    ranks = [
        load_column("table7_elo", f"{c}_rank") for c in ("human_vicuna", "gpt4_vicuna", "gpt4_oa")
    ]
    for system, median in load_column("table7_elo", "median_rank").items():
        found = [rank[system] for rank in ranks if system in rank]
        assert abs(float(np.median(found)) - median) <= 0.5


def test_cells_that_should_agree_and_do_not_are_flagged() -> None:
    one, seven = load_column("table1_elo", "elo"), load_column("table7_elo", "gpt4_vicuna")
    differing = {system for system in one if one[system] != seven[system]}
    assert differing == {s for s in one if flagged("table7_elo", s, "gpt4_vicuna")}
    memory = [
        load_column(f"table{t}", "memory") for t in ("1_elo", "6_vicuna_vs_chatgpt", "13_order")
    ]
    differing = {s for s in memory[0] if len({table[s] for table in memory}) > 1}
    assert differing == {s for s in memory[0] if flagged("table1_elo", s, "memory")}


def test_rows_of_table_6_that_are_equal_are_flagged() -> None:
    cells = load_table("table6_vicuna_vs_chatgpt").query("column != 'memory'")
    rows = {row: tuple(of["value"]) for row, of in cells.groupby("row")}
    twice = {row for row in rows if list(rows.values()).count(rows[row]) > 1}
    assert twice == {"open-assistant-33b", "vicuna-13b"}
    assert flagged("table6_vicuna_vs_chatgpt", "open-assistant-33b", "mean")


def test_errata_are_told_once_with_their_cells() -> None:
    assert list_errata("table4_mmlu_by_dtype") == [
        "erratum, nf4 + dq: mean: its cells give 52.99",
    ]
    assert list_errata("table1_elo", "memory") == [
        "erratum, guanaco-7b: memory: Tables 6 and 13 say 5 GB",
    ]
    (shared,) = list_errata("table12_pairwise")
    assert shared.startswith("erratum, all rows: ")
    assert list_errata("table10_train_on_source") == []


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert [format_signed(value, 1) for value in (-0.04, 0.0, -0.06, 2)] == [
        "+0.0",
        "+0.0",
        "-0.1",
        "+2.0",
    ]


def test_the_mean_rises_of_the_rerun_follow_from_its_perplexities() -> None:
    printed_means = load_grid("table2_rerun").loc["mean rise"].dropna()
    assert len(printed_means) == 6
    for name, mean in printed_means.items():
        dtype, _, dq = str(name).partition(" + ")
        rise = rise_in_rerun(dtype, bool(dq))
        assert float(rise.partition(" ")[0]) == pytest.approx(mean, abs=0.5 if mean > 30 else 0.05)
