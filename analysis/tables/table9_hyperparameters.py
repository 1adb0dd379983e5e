"""Table 9: training settings by size and data, the paper's beside those of planned or done runs.

The settings are those that conf/ gave the runs: each plan and each training keeps them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.artifacts.spec import Key, cells
from analysis.paper_tables import errata
from analysis.table import Table
from qlora_repro.store.load import manifests
from qlora_repro.store.runs import read_document

STEM = "table9_hyperparameters"
SIZES = {"llama_7b": "7b, 13b", "llama_13b": "7b, 13b", "llama_33b": "33b", "llama_65b": "65b"}
OWN = ("oasst1", "hh_rlhf", "longform")  # data with rows of their own
OTHERS = ("alpaca", "chip2", "flan_v2", "self_instruct", "unnatural")
SETTINGS = {
    "batch_size": ("train", "batch_size"),
    "lr": ("train", "lr"),
    "max_steps": ("train", "max_steps"),
    "max_source_len": ("data", "max_source_len"),
    "max_target_len": ("data", "max_target_len"),
}
COLUMNS = ("model and data", "setting", "paper", "ours", "difference", "n")
FEW = 3  # values told in one cell


def build(root: Path) -> Table:
    """Return a row a printed setting, with every value that runs of its sizes and data had."""
    paper, kept = cells(STEM), dict(_decided(root))
    found = values(kept.values())
    rows = [_row(key, theirs, found.get(key, Counter())) for key, theirs in paper.items()]
    there = sum(key in found for key in paper)
    command = f"python run.py experiments={STEM}"
    return Table(
        title="Table 9: settings by size of LLaMA and training data",
        frame=pd.DataFrame(rows, columns=list(COLUMNS)),
        notes=[
            f"{there} of the paper's {len(paper)} settings have runs here"
            + ("" if there == len(paper) else f"; for the others, in seconds: {command}"),
            "ours: what conf/ gave the runs that were planned or trained; n: these runs; 'all "
            f"others' is read as {', '.join(OTHERS)}",
            "the paper prints no source length for OASST1 and HH-RLHF, which train on whole "
            "conversations",
            *errata(STEM),
        ],
        runs=tuple(sorted(name for name, decided in kept.items() if _key(decided))),
    )


def values(kept: Iterable[Mapping[str, Any]]) -> Mapping[Key, Counter[float]]:
    """Return (printed row, setting) -> how many runs had which value."""
    found: dict[Key, Counter[float]] = {}
    for decided in kept:
        row = _key(decided)
        if row is None:
            continue
        for setting, (section, name) in SETTINGS.items():
            if name in decided[section]:
                found.setdefault((row, setting), Counter())[float(decided[section][name])] += 1
    return found


def _key(decided: Mapping[str, Any]) -> str | None:
    """Return the printed row that a run is of; None: none."""
    size = SIZES.get(decided["model"]["name"])
    data = decided.get("data", {}).get("name")
    if size is None or "train" not in decided or data not in (*OWN, *OTHERS):
        return None
    return f"{size}: {data if data in OWN else 'all others'}"


def _decided(root: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (folder, settings) of each plan and each trained run.

    A plan that says itself how long its sequences are asks about memory, and is none of these.
    """
    for folder, manifest in manifests(root):
        if not list(folder.glob("plan-*.jsonl")):
            yield folder.name, manifest["decided_by"]
    for path in sorted(root.glob("*/plan-*.jsonl")):
        decided = read_document(
            path.with_name(path.name.replace("plan-", "settings-")).with_suffix(".json")
        )
        if decided["plan"]["length"] is None:
            yield path.parent.name, decided


def _row(key: Key, theirs: float, ours: Counter[float]) -> dict[str, str | None]:
    same = len(ours) == 1
    difference = next(iter(ours)) - theirs if same else 0.0
    told = [f"{value:g}" for value in sorted(ours)]
    more = [f"{len(told) - FEW} more"] if len(told) > FEW else []
    return {
        "model and data": key[0],
        "setting": key[1],
        "paper": f"{theirs:g}",
        "ours": ", ".join(told[:FEW] + more) if ours else None,
        "difference": ("none" if difference == 0 else f"{difference:+g}") if same else "-",
        "n": f"{ours.total()}" if ours else "-",
    }
