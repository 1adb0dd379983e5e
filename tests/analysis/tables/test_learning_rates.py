"""The learning rate that a method's scores choose, from runs whose best is known."""

from pathlib import Path

import pytest
from scored_runs import add_run

from analysis.build import list_commands
from analysis.tables import build_table


def grid(root: Path, right: dict[float, int], **settings: object) -> None:
    """Add a run a rate with so many right answers of ten in one task, and half of four in one."""
    for rate, hits in right.items():
        scores = {
            "procedural_exact/exact_match": [1.0] * hits + [0.0] * (10 - hits),
            "procedural_mc/acc": [1.0, 0.0, 1.0, 0.0],
        }
        add_run(root, {"train.lr": rate} | settings, scores)


def select_names(root: Path) -> dict[str, str]:
    rows = build_table("learning_rates", root).frame.to_dict("records")
    return {row["learning rate"]: row["chosen"] for row in rows if row["chosen"] != "-"}


@pytest.mark.parametrize(
    ("right", "wanted"),
    [
        ({1e-3: 5, 1e-4: 6, 3e-4: 9}, {"0.0003": "yes"}),
        ({1e-4: 3, 3e-4: 7, 1e-3: 7, 3e-3: 1}, {"0.0003": "yes"}),
        ({1e-4: 3, 3e-4: 7, 1e-3: 9}, {"0.001": "yes, at the end of the grid"}),
    ],
)
def test_the_best_mean_chooses_and_of_equal_ones_the_smallest(
    right: dict[float, int], wanted: dict[str, str], tmp_path: Path
) -> None:
    grid(tmp_path, right)
    assert select_names(tmp_path) == wanted


def test_runs_that_differ_in_more_than_the_rate_are_no_grid(tmp_path: Path) -> None:
    grid(tmp_path, {1e-4: 3, 3e-4: 7, 1e-3: 5})
    grid(tmp_path, {1e-4: 9}, seed=1)
    grid(tmp_path, {2e-4: 9}, **{"lora.r": 64})
    table = build_table("learning_rates", tmp_path)
    assert select_names(tmp_path) == {"0.0003": "yes"}
    assert len(table.frame) == 3
    first = table.frame.iloc[0]
    assert (first["scores"], first["mean, %"], first["n"]) == (
        "procedural_exact 30.0, procedural_mc 50.0",
        "40.0",
        "10, 4",
    )
    assert "smollm2_135m: a stand-in" in table.notes


def test_without_a_grid_the_table_says_what_makes_one(tmp_path: Path) -> None:
    grid(tmp_path, {1e-4: 3})
    table = build_table("learning_rates", tmp_path)
    assert table.frame.empty
    (command,) = list_commands("learning_rates")
    assert command in table.notes[-1]
