"""A results folder as runs leave it, small enough to be judged by hand."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qlora_repro.records import Answer, Metric


def make_run(
    root: Path, dtype: str, *, dq: bool = False, model: str = "small", bits: float = 4.5
) -> Path:
    """Write the manifest of a run of a type; return its folder."""
    folder = root / f"{model}-{dtype}-{dq}"
    folder.mkdir()
    quantized = dtype != "bf16"
    base = {
        "bits_per_parameter": bits if quantized else None,
        "code_bytes": 500 if quantized else 0,
        "scale_bytes": 62 if quantized else 0,
        "kept": [{"role": "embedding", "dtype": "float32", "params": 100}],
    }
    settings = {"name": dtype, "blocksize": 64, "backend": "simulated"}
    if not quantized:
        del settings["blocksize"]
    manifest = {
        "decided_by": {"model": {"name": model}, "dtype": settings, "dq": dq},
        "model": {"note": "weights were 4-bit before"},
        "base": base,
        "provenance": {"commit": "c", "dirty": False},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write(folder: Path, kind: str, rows: Sequence[Any]) -> None:
    lines = [json.dumps(asdict(row)) for row in rows]
    (folder / f"{kind}-0123456789ab.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_losses(
    folder: Path, losses: Sequence[float], *, kl: Sequence[float] = (), window: int = 8
) -> None:
    """Write what an evaluation of perplexity leaves: scores of tokens, and how they were read."""
    scores = {"nats_per_token": losses} | ({"kl": kl} if kl else {})
    answers = [
        Answer(
            run_id="r",
            task="perplexity",
            name=name,
            doc_id=k,
            doc_hash=f"{window}:{k}",
            value=value,
        )
        for name, values in scores.items()
        for k, value in enumerate(values)
    ]
    mean = sum(losses) / len(losses)
    metric = Metric(
        run_id="r",
        task="perplexity",
        name="nats_per_token",
        value=mean,
        stderr=None,
        n=len(losses),
    )
    write(folder, "answers", answers)
    write(folder, "metrics", [metric])
    asked = {
        "perplexity_file": "text.txt sha256:0",
        "perplexity_window": window,
        "perplexity_stride": None,
    }
    (folder / "settings-0123456789ab.json").write_text(json.dumps({"eval": asked}))
