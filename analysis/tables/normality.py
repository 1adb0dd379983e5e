"""Are the rows of a model's weights normal? Appendix F, by role and by layer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.artifacts.runs import (
    add_run_facts,
    group_records,
    list_folders,
    list_run_notes,
    weighted_mean,
)
from analysis.paper_tables import load_column
from analysis.table import Table
from qlora_repro.store.load import load_measurements

NOTES = (
    "Shapiro-Wilk, a test a row (hidden unit), rejected at p < 0.05; of normal rows 5 % are. "
    "Synthetic: N(0, 1) rows of the same shape.",
    "FDR: rejected by Benjamini-Hochberg's step-up rule over the weight's own rows, averaged "
    "where a line has many weights, and over all rows in the line of all.",
    "Paper: LLaMA 7B, without a breakdown by layer.",
)


def build_table(results: Path) -> Table:
    """Return rows for all weights, for each role, and for the first, middle and last layers."""
    tests = add_run_facts(load_measurements("normality", results), results)
    notes = list_run_notes(tests) if len(tests) else ["No run has tested weights for normality."]
    notes += NOTES
    if not tests.empty and (tests["tested"] < tests["columns"]).any():
        notes.append(f"Of rows longer than {tests['tested'].max():,}, so many values are tested.")
    if not tests.empty and tests["note"].astype(str).str.contains("4-bit").any():
        notes.append(
            "Weights that were on a 4-bit grid before take few values a block; a test of normality "
            "sees that as well."
        )
    rows = [
        row
        for (model,), part in group_records(tests, ["model"])
        for row in _rows_of_model(str(model), part)
    ]
    return Table(
        title="Appendix F: normality of weights",
        frame=pd.DataFrame(rows),
        notes=notes,
        runs=list_folders(tests),
    )


def _rows_of_model(model: str, tests: pd.DataFrame) -> Iterator[dict[str, str]]:
    printed = f"{load_column('normality', 'rejected')['llama_7b']:g} %"
    single = tests[tests["name"] != ""]
    yield _row(model, "all", tests[tests["name"] == ""], printed=printed)
    for role, of_role in single.groupby("role", sort=False):
        yield _row(model, f"all {role}", of_role)
    layers = sorted(int(layer) for layer in single["layer"].dropna().unique())
    for layer in dict.fromkeys([layers[0], layers[len(layers) // 2], layers[-1]]):
        for role, of_role in single[single["layer"] == layer].groupby("role", sort=False):
            yield _row(model, f"layer {layer} {role}", of_role)


def _row(model: str, weights: str, tests: pd.DataFrame, *, printed: str = "-") -> dict[str, str]:
    weight_tests, synthetic = (tests[tests["source"] == source] for source in ("weights", "normal"))

    def mean(column: str, of: pd.DataFrame = weight_tests) -> float:
        return weighted_mean(of, column, weights="rows")

    return {
        "model": model,
        "weights": weights,
        "rows": f"{int(weight_tests['rows'].sum()):,}",
        "rejected": f"{100 * mean('rejected'):.1f} %",
        "rejected, synthetic": f"{100 * mean('rejected', synthetic):.1f} %",
        "rejected, FDR 5 %": f"{100 * mean('rejected_fdr'):.1f} %",
        "excess kurtosis": "-" if np.isnan(mean("kurtosis")) else f"{mean('kurtosis'):.2f}",
        "paper": printed,
    }
