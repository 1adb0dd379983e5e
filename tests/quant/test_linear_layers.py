"""Layers that bitsandbytes would read wrongly."""

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from qlora_repro.errors import ModelError
from qlora_repro.quant import linear_layers
from qlora_repro.quant.bitsandbytes import quantize_in_place
from qlora_repro.quant.linear_layers import quantizable


def test_a_layer_that_bitsandbytes_would_misread_is_refused_with_what_would_do(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CPU with AVX-512, which this machine may lack."""
    monkeypatch.setattr(linear_layers, "reads_back", lambda columns, *rest: columns % rest[1] == 0)
    said = (
        r"misreads model\.layers\.0\.self_attn\.q_proj .* rows of 64 weights do not divide into "
        r"blocks of 128; use dtype\.blocksize=32 or 64, or dtype\.backend=simulated"
    )
    names = quantizable(llama)
    held: dict[str, Any] = {"dtype": "nf4", "dq": True, "compute_dtype": torch.float32}
    with pytest.raises(ModelError, match=said):
        quantize_in_place(copy.deepcopy(llama), names, blocksize=128, **held)
    quantize_in_place(llama, names, blocksize=64, **held)
