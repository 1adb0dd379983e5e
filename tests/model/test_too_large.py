"""A model for which there is not enough memory."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from qlora_repro.config.schema import DtypeConfig, RunConfig
from qlora_repro.errors import RunError
from qlora_repro.model import load
from qlora_repro.model.load import estimate_weight_bytes
from qlora_repro.quant.linear_layers import find_quantizable_layers


def dtype(name: str, backend: str) -> DtypeConfig:
    return DtypeConfig(
        name=name,
        blocksize=64,
        compute_dtype="bfloat16",
        backend=backend,
        scales="dynamic8",
        codebook=None,
    )


def test_weights_take_16_bits_but_for_those_that_bitsandbytes_holds_in_4_and_a_half(
    llama: LlamaForCausalLM,
) -> None:
    everything = sum(p.numel() for p in llama.parameters())
    names = find_quantizable_layers(llama)
    linear = sum(llama.get_submodule(name).weight.numel() for name in names)
    assert estimate_weight_bytes(llama, names, dtype=dtype("bf16", "none")) == 2 * everything
    assert estimate_weight_bytes(llama, names, dtype=dtype("nf4", "simulated")) == 2 * everything
    wanted = 2 * (everything - linear) + linear * 4.5 / 8
    assert estimate_weight_bytes(llama, names, dtype=dtype("nf4", "bnb")) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_its_size_and_what_to_choose(
    error: Exception, configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise error

    cfg = configured("model=tiny", "model.device=cpu", "dtype=bf16", "dq=false")
    monkeypatch.setattr(load.AUTO_CLASSES["causal"], "from_pretrained", full)
    with pytest.raises(RunError, match=r"take about 0\.00 GB as dtype=bf16; choose a smaller"):
        load.load_base(cfg.model, cfg.dtype, dq=False)
