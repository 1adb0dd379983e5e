"""What each data type makes of normal, heavy-tailed and real weights, beside the optimum."""

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
from analysis.table import Table
from qlora_repro.store.load import load_measurements, type_name

NO_OPTIMUM = "-"
ROLES = ("q", "k", "v", "qkv", "o", "gate", "up", "down", "other")
NO_RUN = "No run has measured data types; python run.py experiments=data_types does."
UNIT = (
    "MSE is in units of each block's absmax squared, in thousandths: it compares types in one "
    "block size. Across block sizes, whose absmax differ, the relative error compares: the norm of "
    "the change over the norm of the weights."
)
OPTIMUM = (
    "Optimum: the Lloyd-Max levels, as many as the type has, for the same values; they need no "
    "exact zero and no exact ends, which the types keep. No optimum is sought above 16 levels."
)


def build_table(results: Path) -> Table:
    """Return a row a source, block size and type: error, optimum, their ratio, code entropy."""
    errors = load_quant_errors(results)
    rows = [
        {
            "source": source,
            "block": blocksize,
            "type": type_name(dtype, dq),
            "MSE": f"{1e3 * weighted_mean(part, 'mse', weights='n'):.3f}",
            "relative error": f"{100 * relative_error(part):.2f} %",
            "optimum": _format_optimum(1e3 * weighted_mean(part, "optimum", weights="n")),
            "over optimum": _format_optimum(_over_optimum(part)),
            "bits a code": f"{weighted_mean(part, 'entropy', weights='n'):.2f}",
            "levels": int(part["levels"].iloc[0]),
        }
        for (source, blocksize, dtype, dq), part in group_records(
            errors, ["source", "blocksize", "dtype", "dq"]
        )
    ]
    return Table(
        title="Data types on weights",
        frame=pd.DataFrame(rows),
        notes=[*_notes(errors), UNIT, OPTIMUM],
        runs=list_folders(errors),
    )


def build_table_by_role(results: Path) -> Table:
    """Return a row a model, block size and type: its error over the optimum, by role of weight.

    Beside them stand the layers where the type is nearest to the optimum and farthest from it.
    """
    errors = load_quant_errors(results)
    if not errors.empty:
        known = errors["role"].notna() & errors["optimum"].notna()
        errors = errors[known & ~errors["dq"].astype(bool)]
    roles = [role for role in ROLES if not errors.empty and (errors["role"] == role).any()]
    rows = []
    for (model, blocksize, dtype), part in group_records(errors, ["model", "blocksize", "dtype"]):
        layers = {f"{k:.0f}": _over_optimum(of) for k, of in part.groupby("layer")}
        nearest, farthest = min(layers, key=layers.__getitem__), max(layers, key=layers.__getitem__)
        by_role = {role: f"{_over_optimum(part[part['role'] == role]):.3f}" for role in roles}
        rows.append(
            {
                "model": model,
                "block": blocksize,
                "type": dtype,
                "all": f"{_over_optimum(part):.3f}",
                **by_role,
                "nearest layer": f"{nearest}: {layers[nearest]:.3f}",
                "farthest layer": f"{farthest}: {layers[farthest]:.3f}",
            }
        )
    return Table(
        title="How far each type is from the optimum, by weight",
        frame=pd.DataFrame(rows),
        notes=[*_notes(errors), "Mean squared error over that of the optimal levels.", OPTIMUM],
        runs=list_folders(errors),
    )


def load_quant_errors(results: Path) -> pd.DataFrame:
    """Return the error records; synthetic values, which all runs draw alike, are kept once."""
    errors = add_run_facts(load_measurements("quant_errors", results), results)
    if errors.empty:
        return errors
    synthetic = errors["source"] != "weights"
    repeated = errors.duplicated(["source", "name", "dtype", "blocksize", "dq", "n"])
    sources = errors["source"].where(synthetic, errors["model"])
    return errors[~(synthetic & repeated)].assign(source=sources)


def relative_error(rows: pd.DataFrame) -> float:
    """Return the norm of the change over the norm of the weights, as if all had one variance."""
    squares = rows["relative"].astype(float) ** 2
    return float(np.average(squares, weights=rows["n"]) ** 0.5)


def _over_optimum(rows: pd.DataFrame) -> float:
    mse, optimum = (weighted_mean(rows, name, weights="n") for name in ("mse", "optimum"))
    return mse / optimum


def _notes(errors: pd.DataFrame) -> list[str]:
    return [NO_RUN] if errors.empty else list_run_notes(errors)


def _format_optimum(value: float) -> str:
    return NO_OPTIMUM if np.isnan(value) else f"{value:.3f}"
