"""What each data type makes of normal, heavy-tailed and real weights, beside the optimum."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.table import Table
from qlora_repro.store.load import folders, records, type_name

UNASKED = "-"
ROLES = ("q", "k", "v", "qkv", "o", "gate", "up", "down", "other")
UNIT = (
    "MSE is in units of each block's absmax squared, in thousandths: it compares types in one "
    "block size. Across block sizes, whose absmax differ, the relative error compares: the norm of "
    "the change over the norm of the weights."
)
OPTIMUM = (
    "Optimum: the Lloyd-Max levels, as many as the type has, for the same values; they need no "
    "exact zero and no exact ends, which the types keep. No optimum is sought above 16 levels."
)


def build(root: Path) -> Table:
    """Return a row a source, block size and type: error, optimum, their ratio, code entropy."""
    found = errors(root)
    rows = [
        {
            "source": source,
            "block": blocksize,
            "type": type_name(dtype, dq),
            "MSE": f"{1e3 * weighted(part, 'mse'):.3f}",
            "optimum": _or_unasked(1e3 * weighted(part, "optimum"), 3),
            "relative error": f"{100 * relative(part):.2f} %",
            "over optimum": _or_unasked(weighted(part, "mse") / weighted(part, "optimum"), 3),
            "bits a code": f"{weighted(part, 'entropy'):.2f}",
            "levels": int(part["levels"].iloc[0]),
        }
        for (source, blocksize, dtype, dq), part in _groups(
            found, ["source", "blocksize", "dtype", "dq"]
        )
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Table(
        title="Data types on weights",
        frame=frame,
        notes=[*notes(found), UNIT, OPTIMUM],
        runs=folders(found),
    )


COLUMNS = (
    *("source", "block", "type", "MSE", "relative error", "optimum", "over optimum"),
    *("bits a code", "levels"),
)


def by_role(root: Path) -> Table:
    """Return a row a model, block size and type: its error over the optimum, by role of weight.

    Beside them stand the layers where NF4 is nearest to the optimum and farthest from it.
    """
    found = errors(root)
    if not found.empty:
        found = found[found["role"].notna() & found["optimum"].notna() & ~found["dq"].astype(bool)]
    roles = [role for role in ROLES if not found.empty and (found["role"] == role).any()]
    rows = []
    for (model, blocksize, dtype), part in _groups(found, ["model", "blocksize", "dtype"]):
        over = {role: _over(part[part["role"] == role]) for role in roles}
        layers = {int(k): _over(part[part["layer"] == k]) for k in part["layer"].dropna().unique()}
        nearest, farthest = min(layers, key=layers.__getitem__), max(layers, key=layers.__getitem__)
        rows.append(
            {
                "model": model,
                "block": blocksize,
                "type": dtype,
                "all": f"{_over(part):.3f}",
                **{role: f"{value:.3f}" for role, value in over.items()},
                "nearest layer": f"{nearest}: {layers[nearest]:.3f}",
                "farthest layer": f"{farthest}: {layers[farthest]:.3f}",
            }
        )
    frame = pd.DataFrame(
        rows,
        columns=["model", "block", "type", "all", *roles, "nearest layer", "farthest layer"],
    )
    said = [*notes(found), "Mean squared error over that of the optimal levels.", OPTIMUM]
    return Table(
        title="How far each type is from the optimum, by weight",
        frame=frame,
        notes=said,
        runs=folders(found),
    )


def errors(root: Path) -> pd.DataFrame:
    """Return the error records; synthetic values, which all runs draw alike, are kept once."""
    found = records(root, "quant_errors")
    if found.empty:
        return found
    where = ["source", "name", "dtype", "blocksize", "dq", "n"]
    synthetic = found["source"] != "weights"
    return found[~(synthetic & found.duplicated(where))].assign(
        source=found["source"].where(synthetic, found["model"])
    )


def weighted(rows: pd.DataFrame, column: str) -> float:
    """Return the mean over all values that the rows are of; nan where a row has none."""
    return float(np.average(rows[column].astype(float), weights=rows["n"]))


def relative(rows: pd.DataFrame) -> float:
    """Return the norm of the change over the norm of the weights, as if all had one variance."""
    squares = rows["relative"].astype(float) ** 2
    return float(np.average(squares, weights=rows["n"]) ** 0.5)


def notes(found: pd.DataFrame) -> list[str]:
    """Return what must be said of the models and of the code that measured them."""
    if found.empty:
        return ["No run has measured data types; python run.py experiments=data_types does."]
    said = found[["model", "note", "dirty", "folder"]].drop_duplicates().to_dict("records")
    return [
        *(f"{row['model']}: {row['note']}" for row in said if row["note"]),
        *(f"{row['folder']}: the code had uncommitted changes" for row in said if row["dirty"]),
    ]


def _groups(found: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    if found.empty:
        return []
    return [(tuple(key), part) for key, part in found.groupby(keys, sort=False)]


def _over(rows: pd.DataFrame) -> float:
    return weighted(rows, "mse") / weighted(rows, "optimum")


def _or_unasked(value: float, digits: int) -> str:
    return UNASKED if np.isnan(value) else f"{value:.{digits}f}"
