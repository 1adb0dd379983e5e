"""Table 9: training settings by size and data, the paper's beside those of planned or done runs.

The settings are those that conf/ gave the runs: each plan and each training keeps them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.paper_tables import CellKey, list_errata, load_cells
from analysis.table import Table
from qlora_repro.store.load import load_documents, load_plans, load_runs

STEM = "table9_hyperparameters"
SIZES = {"llama_7b": "7b, 13b", "llama_13b": "7b, 13b", "llama_33b": "33b", "llama_65b": "65b"}
OWN_ROWS = ("oasst1", "hh_rlhf", "longform")  # data with rows of their own
OTHERS = ("alpaca", "chip2", "flan_v2", "self_instruct", "unnatural")
SECTIONS = {
    "batch_size": "train",
    "lr": "train",
    "max_steps": "train",
    "max_source_len": "data",
    "max_target_len": "data",
}
COLUMNS = ("model and data", "setting", "paper", "ours", "difference", "n")
MOST_VALUES = 3  # in one cell


def build_table(results: Path) -> Table:
    """Return a row a printed setting, with every value that runs of its sizes and data had."""
    printed, settings = load_cells(STEM), load_training_settings(results)
    values = count_values(settings.values())
    rows = [_row(key, value, values.get(key, Counter())) for key, value in printed.items()]
    measured = sum(key in values for key in printed)
    command = f"; for the others, in seconds: python run.py experiments={STEM}"
    return Table(
        title="Table 9: settings by size of LLaMA and training data",
        frame=pd.DataFrame(rows, columns=list(COLUMNS)),
        notes=[
            f"{measured} of the paper's {len(printed)} settings have runs here"
            + (command if measured < len(printed) else ""),
            "ours: what conf/ gave the runs that were planned or trained; n: these runs; 'all "
            f"others' is read as {', '.join(OTHERS)}",
            "the paper prints no source length for OASST1 and HH-RLHF, which train on whole "
            "conversations",
            *list_errata(STEM),
        ],
        runs=tuple(sorted(folder for folder, of in settings.items() if _printed_row(of))),
    )


def load_training_settings(results: Path) -> dict[str, Mapping[str, Any]]:
    """Return folder -> settings of each plan and each trained run.

    A plan that says itself how long its sequences are asks about memory, and is none of these.
    """
    runs, plans = load_runs(results), load_plans(results)
    planned = set(zip(plans["run_id"], plans["digest"], strict=True)) if len(plans) else set()
    settings = {
        run["folder"]: run["settings"]
        for run in runs.to_dict("records")
        if run["run_id"] not in {run_id for run_id, _ in planned}
    }
    for row in load_documents("settings-*.json", results).to_dict("records"):
        document = row["document"]
        if (row["run_id"], row["digest"]) in planned and document["plan"]["length"] is None:
            settings[row["folder"]] = document
    return settings


def count_values(settings: Iterable[Mapping[str, Any]]) -> Mapping[CellKey, Counter[float]]:
    """Return (printed row, setting) -> how many runs had which value."""
    values: dict[CellKey, Counter[float]] = {}
    for run in settings:
        row = _printed_row(run)
        for name, section in SECTIONS.items() if row else ():
            if name in run[section]:
                values.setdefault((str(row), name), Counter())[float(run[section][name])] += 1
    return values


def _printed_row(settings: Mapping[str, Any]) -> str | None:
    """Return the printed row that a run is of; None: none."""
    size = SIZES.get(settings["model"]["name"])
    data = settings.get("data", {}).get("name")
    if size is None or "train" not in settings or data not in (*OWN_ROWS, *OTHERS):
        return None
    return f"{size}: {data if data in OWN_ROWS else 'all others'}"


def _row(key: CellKey, printed: float, ours: Counter[float]) -> dict[str, str | None]:
    values = [f"{value:g}" for value in sorted(ours)]
    if len(values) > MOST_VALUES:
        values[MOST_VALUES:] = [f"{len(values) - MOST_VALUES} more"]
    difference = next(iter(ours)) - printed if len(ours) == 1 else None
    return {
        "model and data": key[0],
        "setting": key[1],
        "paper": f"{printed:g}",
        "ours": ", ".join(values) or None,
        "difference": "-" if difference is None else f"{difference:+g}" if difference else "none",
        "n": f"{ours.total()}" if ours else "-",
    }
