"""Are the rows of a model's weights normal? Appendix F, by role and by layer."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.paper_tables import column
from analysis.table import Table
from analysis.tables.data_types import notes
from qlora_repro.store.load import folders, records

COLUMNS = (
    *("model", "weights", "rows", "rejected", "rejected, synthetic", "rejected, FDR 5 %"),
    *("excess kurtosis", "paper"),
)


def build(root: Path) -> Table:
    """Return rows for all weights, for each role, and for the first, middle and last layers."""
    found = records(root, "normality")
    paper = f"{column('normality', 'rejected')['llama_7b']:g} %"
    rows = []
    for model, part in found.groupby("model", sort=False) if not found.empty else ():
        single = part[part["name"] != ""]
        rows.append(_row(str(model), "all", part[part["name"] == ""], paper=paper))
        for role, of_role in single.groupby("role", sort=False):
            rows.append(_row(str(model), f"all {role}", of_role))
        layers = sorted(int(layer) for layer in single["layer"].dropna().unique())
        for layer in dict.fromkeys([layers[0], layers[len(layers) // 2], layers[-1]]):
            for role, of_role in single[single["layer"] == layer].groupby("role", sort=False):
                rows.append(_row(str(model), f"layer {layer} {role}", of_role))
    said = [
        *(notes(found) if not found.empty else ["No run has tested weights for normality."]),
        "Shapiro-Wilk, a test a row (hidden unit), rejected at p < 0.05; of normal rows 5 % are. "
        "Synthetic: N(0, 1) rows of the same shape.",
        "FDR: rejected by Benjamini-Hochberg's step-up rule over the weight's own rows, averaged "
        "where a line has many weights, and over all rows in the line of all.",
        "Paper: LLaMA 7B, without a breakdown by layer.",
    ]
    if not found.empty and (found["tested"] < found["columns"]).any():
        said.append(f"Of rows longer than {found['tested'].max():,}, so many values are tested.")
    if not found.empty and found["note"].astype(str).str.contains("4-bit").any():
        said.append(
            "Weights that were on a 4-bit grid before take few values a block; a test of normality "
            "sees that as well."
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Table(
        title="Appendix F: normality of weights", frame=frame, notes=said, runs=folders(found)
    )


def _row(model: str, weights: str, part: pd.DataFrame, *, paper: str = "-") -> dict[str, str]:
    own, control = (part[part["source"] == source] for source in ("weights", "normal"))
    kurtosis = _mean(own, "kurtosis")
    return {
        "model": model,
        "weights": weights,
        "rows": f"{int(own['rows'].sum()):,}",
        "rejected": f"{100 * _mean(own, 'rejected'):.1f} %",
        "rejected, synthetic": f"{100 * _mean(control, 'rejected'):.1f} %",
        "rejected, FDR 5 %": f"{100 * _mean(own, 'rejected_fdr'):.1f} %",
        "excess kurtosis": "-" if np.isnan(kurtosis) else f"{kurtosis:.2f}",
        "paper": paper,
    }


def _mean(rows: pd.DataFrame, column: str) -> float:
    return float(np.average(rows[column].astype(float), weights=rows["rows"]))
