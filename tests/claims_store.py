"""A results folder whose runs differ in what a test says, with scores that it gives."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST = "0123456789ab"
LEAVES = {  # settings of a tuned run, by dotted path
    "model.name": "smollm2_135m",
    "dtype.name": "nf4",
    "dtype.blocksize": 64,
    "dtype.backend": "simulated",
    "dq": True,
    "lora.target": "all",
    "lora.r": 16,
    "data.name": "procedural",
    "data.rows": 640,
    "train.lr": 2e-4,
    "train.max_steps": 80,
    "seed": 0,
}
UNTUNED = ("model", "dtype", "dq")


def add_run(root: Path, settings: Mapping[str, Any], scores: Mapping[str, Any], **more: Any) -> str:
    """Write a run with settings by dotted path, and scores by "task/metric"; return its folder.

    tuned=False leaves out all but model and dtype. params: of the model; trainable: that trained;
    asked: of the eval section.
    """
    decided: dict[str, Any] = {}
    for path, value in (LEAVES | dict(settings)).items():
        section = decided
        *above, leaf = path.split(".")
        for name in above:
            section = section.setdefault(name, {})
        section[leaf] = value
    if not more.get("tuned", True):
        decided = {name: decided[name] for name in UNTUNED}
    folder = root / f"run-{len(list(root.iterdir()))}"
    folder.mkdir()
    params = more.get("params", 1000)
    quantized = decided["dtype"]["name"] != "bf16"
    base = {
        "bits_per_parameter": 4.5 if quantized else None,
        "code_bytes": params / 2 if quantized else 0,
        "scale_bytes": 0,
        "kept": [] if quantized else [{"role": "q", "dtype": "float32", "params": params}],
    }
    manifest = {
        "run_id": folder.name,
        "decided_by": decided,
        "model": {"note": "a stand-in"},
        "base": base,
        "trainable": {"total": more.get("trainable", 100)},
        "provenance": {"commit": "c", "dirty": False},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    asked = {"eval": {"perplexity_window": 4} | more.get("asked", {})}
    (folder / f"settings-{DIGEST}.json").write_text(json.dumps(asked))
    rows = [row for name, values in scores.items() for row in answers(name, values)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"answers-{DIGEST}.jsonl").write_text(lines)
    return folder.name


def answers(name: str, values: Sequence[float] | NDArray[np.float64]) -> list[dict[str, Any]]:
    task, _, metric = name.partition("/")
    return [
        {"run_id": "r", "task": task, "name": metric, "doc_id": k, "doc_hash": str(k), "value": v}
        for k, v in enumerate(map(float, values))
    ]
