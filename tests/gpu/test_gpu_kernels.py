"""Kernels on a GPU: Liger's give our losses, and ours gives bitsandbytes' weights."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers.models.llama import modeling_llama

from qlora_repro import pipeline
from qlora_repro.config.registry import BNB_BLOCKSIZES
from qlora_repro.config.schema import RunConfig
from qlora_repro.quant.one_pass import dequantize_in_one_pass, fits_one_pass

pytestmark = pytest.mark.gpu
needs_liger = pytest.mark.skipif(find_spec("liger_kernel") is None, reason="needs liger-kernel")
WORDS = (
    *("model=tiny", "model.device=cuda", "stages=[train]"),
    *("train.max_steps=6", "train.lr=0.01", "lora.r=8"),
)


@needs_liger
@pytest.mark.parametrize(
    ("compute", "apart"),
    [("float32", {"abs": 1e-3}), ("bfloat16", {"rel": 1e-3})],  # a bfloat16 rounds by 4e-3
)
def test_losses_are_those_without_to_a_thousandth(
    compute: str, apart: dict[str, float], configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    norm, losses = modeling_llama.LlamaRMSNorm, {}
    words = (*WORDS, f"dtype.compute_dtype={compute}")
    for kernels in ("liger", "none"):
        folder = f"results_dir={tmp_path / kernels}"
        result = pipeline.run_stages(configured(*words, f"train.kernels={kernels}", folder))
        assert result.training is not None
        assert result.training["numerics"]["kernels"] == kernels
        losses[kernels] = [step["loss"] for step in result.training["steps"]]
        assert modeling_llama.LlamaRMSNorm is norm
    assert losses["liger"] == pytest.approx(losses["none"], **apart)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("blocksize", BNB_BLOCKSIZES)
def test_one_pass_reads_nf4_with_dq_as_bitsandbytes_does(
    blocksize: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for shape in ((4096, 1024), (60, 1000), (7, 9)):  # constants in many blocks, in one, ragged
        weight = torch.randn(shape, device="cuda", dtype=dtype)
        packed, state = quantize_4bit(
            weight, blocksize=blocksize, quant_type="nf4", compress_statistics=True
        )
        assert fits_one_pass(packed, state)
        read = dequantize_in_one_pass(packed, state)
        assert torch.equal(read, dequantize_4bit(packed, state))
        assert torch.equal(read, dequantize_in_one_pass(packed.view(torch.int8), state))
