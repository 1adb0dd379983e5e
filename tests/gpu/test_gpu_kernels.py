"""Liger's kernels on a GPU: the losses of our own, and nothing left behind."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers.models.llama import modeling_llama

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("liger_kernel") is None, reason="liger-kernel is not installed"),
]
WORDS = (
    *("model=tiny", "model.device=cuda", "dtype.compute_dtype=bfloat16", "stages=[train]"),
    *("train.max_steps=6", "train.lr=0.01", "lora.r=8"),
)


def test_losses_are_those_without_to_a_thousandth(
    configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    norm, losses = modeling_llama.LlamaRMSNorm, {}
    for kernels in ("liger", "none"):
        folder = f"results_dir={tmp_path / kernels}"
        done = pipeline.run_stages(configured(*WORDS, f"train.kernels={kernels}", folder))
        assert done.training is not None
        assert done.training["numerics"]["kernels"] == kernels
        losses[kernels] = [step["loss"] for step in done.training["steps"]]
        assert modeling_llama.LlamaRMSNorm is norm
    assert losses["liger"] == pytest.approx(losses["none"], abs=1e-3)
