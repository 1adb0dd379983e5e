"""The main job on a GPU, on random weights: make test-gpu."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.quant.bitsandbytes import dequantize_weight
from qlora_repro.quant.linear_layers import find_linear_layers
from qlora_repro.session import ModelSession

pytestmark = pytest.mark.gpu
ON_GPU = ("model=tiny", "model.device=cuda", "eval.n=1", "lora.r=8")
BOTH = ("bnb", "simulated")


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_the_whole_job_runs_with_a_paged_optimizer(
    compute: str, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    words = (f"dtype.compute_dtype={compute}", f"results_dir={tmp_path}", "train.lr=0.01")
    found = pipeline.run_stages(configured(*ON_GPU, *words, "train.max_steps=6"))
    assert found.manifest is not None
    assert found.training is not None
    assert found.manifest.provenance.device == torch.cuda.get_device_name(0)
    assert found.manifest.base.kinds == {"Linear4bit": 14}
    assert found.training["optim"] == "paged_adamw_32bit"
    assert found.training["steps"][-1]["loss"] < found.training["steps"][0]["loss"]
    assert 0 < found.training["peak_memory"] < 1 << 30
    assert found.after is not None
    assert (found.folder / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("dq", ["true", "false"])
@pytest.mark.parametrize("dtype", ["nf4", "fp4"])
def test_both_backends_hold_the_same_weights(
    dtype: str, dq: str, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """To a code at most: the CUDA kernels may round a tie, or a scale's code, the other way."""
    held, simulated = (
        ModelSession(
            configured(*ON_GPU, f"dtype={dtype}", f"dq={dq}", f"dtype.backend={b}"), tmp_path
        )
        .base()
        .model
        for b in BOTH
    )
    for name in find_linear_layers(held):
        ours, theirs = (dequantize_weight(m.get_submodule(name)) for m in (simulated, held))
        differ = (ours - theirs).abs() > 0.01 * theirs.abs().max()
        assert differ.float().mean() < 1e-3, name
