"""One run on two GPUs, data parallel and with a divided 4-bit base: make test-gpu."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
RUN = Path(__file__).resolve().parents[2] / "run.py"
WORDS = [
    *("model=tiny", "model.device=cuda", "stages=[train,eval]", "eval.n=1", "lora.r=8"),
    *("train.batch_size=8", "train.micro_batch_size=2", "train.max_steps=6"),
]


def losses(folder: Path, *words: str, processes: int) -> list[float]:
    """Run the command on so many GPUs; return its loss curve, after a look at its records."""
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), str(RUN), *WORDS, *words],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=True,
    )
    mark = next(folder.rglob("train.json"))
    record = json.loads(mark.read_text())
    assert record["processes"] == processes
    assert record["optim"] == "paged_adamw_32bit"
    manifest = json.loads((mark.parent / "manifest.json").read_text())
    assert manifest["provenance"]["device"] == torch.cuda.get_device_name(0)
    lines = (mark.parent / "steps.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", ["qlora", "fsdp"])
def test_two_gpus_give_the_curve_of_one(train: str, compute: str, tmp_path: Path) -> None:
    how = f"dtype.compute_dtype={compute}"
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    alone = losses(one, how, processes=1)
    many = losses(two, how, f"train={train}", processes=2)
    assert many == pytest.approx(alone, abs=1e-4 if compute == "float32" else 1e-2)
