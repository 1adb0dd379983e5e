"""Figure 6: memory of QLoRA by model size, the paper's bars beside what planning predicts."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.table import Table
from qlora_repro.config.paths import PAPER
from qlora_repro.errors import StoreError
from qlora_repro.store.load import folders
from qlora_repro.store.runs import read_lines

PRINTED = PAPER / "fig6_memory.csv"
FAR = 0.10  # of the paper's value: a larger difference needs a reason
LENGTH = 512  # tokens of the one sequence
REASONS = {
    "model": (
        "the paper's base weighs 1.2 to 2.6 GB more than the codes, constants and 16-bit "
        "embeddings, head and norms of these models; it does not say of what"
    ),
    "adapters": (
        "the paper's labels are 0.90 of what r=64 on all seven linear layers of a block adds in 16 "
        "bits"
    ),
    "optimizer": "two float32 moments of the same adapters, so the same 0.90",
    "total": "what the parts above differ by, and activations, which the paper estimates",
}
FLOAT32 = "adapters train in float32 here, and the paper counts 16 bits"


def plans(root: Path) -> pd.DataFrame:
    """Return each size's plan that is like the paper's: one sequence of 512 tokens, NF4 and DQ.

    Where a size has several, those that count adapters in 16 bits come first. The frame is empty
    where there is none. Raises StoreError when there is no such folder.
    """
    if not root.is_dir():
        raise StoreError(f"--results {root} is not a folder; name one that runs were written to")
    rows = [
        {**row, "folder": path.parent.name}
        for path in sorted(root.glob("*/plan-*.jsonl"))
        for row in read_lines(path)
    ]
    alike = [row for row in rows if _alike(row)]
    alike.sort(key=lambda row: row["adapters"] != "bfloat16")
    found = pd.DataFrame(alike)
    return found if found.empty else found.drop_duplicates("model").set_index("model")


def _alike(row: dict[str, Any]) -> bool:
    setting = (row["dtype"], row["dq"], row["simulated"], row["lora"], row["r"])
    batch = (row["rows"], row["length"], row["checkpointing"], row["accumulates"])
    return setting == ("nf4", True, False, "all", 64) and batch == (1, LENGTH, True, False)


def bars(plan: pd.Series, paper: pd.Series) -> dict[str, tuple[float, float]]:
    """Return bar -> (paper, ours) of one size, GB."""
    return {
        "model": (paper["model_mb"] / 1e3, (plan["weights"] + plan["scales"]) / 1e9),
        "adapters": (paper["adapters_mb"] / 1e3, plan["adapter_weights"] / 1e9),
        "optimizer": (paper["optimizer_mb"] / 1e3, plan["optimizer"] / 1e9),
        "total": (paper["total_gb"], plan["peak"] / 1e9),
    }


def paper_bars() -> pd.DataFrame:
    """Return the labels of the paper's figure, a row a model."""
    return pd.read_csv(PRINTED).set_index("model")


def build(root: Path) -> Table:
    """Return a row a model and bar; a bar that is far from the paper's has its reason below."""
    found, paper = plans(root), paper_bars()
    rows, far = [], set[str]()
    for model in paper.index:
        if model not in found.index:
            rows += [{"model": model, "bar": bar} for bar in REASONS]
            continue
        for bar, (theirs, ours) in bars(found.loc[model], paper.loc[model]).items():
            share = ours / theirs - 1
            far |= {bar} if abs(share) > FAR else set()
            rows.append(
                {
                    "model": model,
                    "bar": bar,
                    "paper, GB": f"{theirs:.2f}",
                    "ours, GB": f"{ours:.2f}",
                    "difference, GB": f"{ours - theirs:+.2f}",
                    "difference, %": f"{100 * share:+.1f}",
                }
            )
    notes = [f"{bar}: {why}" for bar, why in REASONS.items() if bar in far]
    if not found.empty and (found["adapters"] == "float32").any():
        notes.append(f"adapters and optimizer: {FLOAT32}")
    notes.append("ours is predicted, 1 GB is 1e9 bytes; parts that take turns do not add up to it")
    columns = ("model", "bar", "paper, GB", "ours, GB", "difference, GB", "difference, %")
    return Table(
        title="Figure 6: memory of QLoRA, one sequence of 512 tokens, gradient checkpointing",
        frame=pd.DataFrame(rows, columns=list(columns)),
        notes=notes,
        runs=folders(found),
    )
