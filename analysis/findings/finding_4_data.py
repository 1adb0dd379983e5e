"""Finding 4: data quality matters more than dataset size.

Tested: scores are spread further between kinds of data than between sizes of one kind. The paper
has it in Table 11 and in chat scores; experiments/finding4_data.yaml makes runs of ours.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.artifacts.runs import EvaluatedRun, group_runs
from analysis.findings.evidence import (
    BILLIONS,
    Criteria,
    Evidence,
    assess_chat_scores,
    build_grid,
    compare_spreads,
    score_out_of_ten,
)
from analysis.paper_tables import load_cells
from qlora_repro.stats.estimates import levels_without_repeats
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
    MissingComparison,
    Part,
    assess_larger_spread,
)
from qlora_repro.stats.intervals import Array

DATASETS = ("chip2", "unnatural", "flan_v2")
ROWS = ("50000", "100000", "150000")
EPOCHS = ("1 epoch", "2 epochs", "3 epochs")
SAME = ("model", "dtype", "dq", "lora", "train", "data.train_on_source")  # of runs in one grid


def evidence_from_paper(verdicts: pd.DataFrame, criteria: Criteria) -> Evidence:
    """Return the spreads of Table 11, and OASST1, 9,209 rows, against FLAN v2, 450,000, in chat."""
    cells = printed_table11()
    datasets, *others = levels_without_repeats(cells)
    spreads = [
        assess_larger_spread(
            datasets,
            levels,
            ComparisonInfo(
                part=f"spread between datasets over that between {name} (Table 11)",
                unit="points, sd",
                n=cells.size,
                of="runs",
                required=name == "sizes",
                notes=("it is the dataset that differs: fit to MMLU, not only quality",),
            ),
        )
        for name, levels in zip(("sizes", "epochs"), others, strict=True)
    ]
    chat = score_out_of_ten(verdicts)
    apart = [chat[f"guanaco-{size}"] - chat[f"flan-{size}"] for size in BILLIONS]
    part = "OASST1 (9 k rows) over FLAN v2 (450 k), chat scores of four sizes"
    small_over_large = assess_chat_scores(
        sum(apart[1:], start=apart[0]) / len(BILLIONS), part, criteria
    )
    return Evidence(finding=4, parts=(*spreads, small_over_large))


def printed_table11() -> Array:
    """Return MMLU by dataset, size and epochs: (3, 3, 3)."""
    cells = load_cells("table11_dataset_size")
    return np.array(
        [
            [[cells[rows, f"{data} {epochs}"] for epochs in EPOCHS] for rows in ROWS]
            for data in DATASETS
        ]
    )


def parts_from_runs(
    runs: Sequence[EvaluatedRun], _verdicts: pd.DataFrame, criteria: Criteria
) -> list[Part]:
    """Return kinds of data (quality, suitability, source) against rows, for the same steps."""
    kinds = {name: path for name, path in criteria.factors.items() if name != "size"}
    size = criteria.factors["size"]

    def describe_kind(run: EvaluatedRun) -> str:
        levels = {name: run.setting(path) for name, path in kinds.items()}
        return ", ".join(f"{name} {level}" for name, level in levels.items() if level is not None)

    parts: list[Part] = []
    tuned = [run for run in runs if run.is_tuned]
    for group in group_runs(tuned, lambda run: [run.setting(path) for path in SAME]):
        grid = build_grid(group, describe_kind, lambda run: str(run.setting(size)))
        if grid.is_complete(criteria):
            examples = [grid.any_run(row, grid.columns[0]) for row in grid.rows]
            factors = {
                name: [str(run.setting(path)) for run in examples] for name, path in kinds.items()
            }
            names = ("kinds of data", "sizes")
            parts += compare_spreads(grid, names, group[0].model, criteria, factors)
    needs = f"every kind of data in every size, two or more of each, {criteria.fewest_seeds} seeds"
    return parts or [
        MissingComparison(part="spread between kinds of data over that between sizes", needs=needs)
    ]
