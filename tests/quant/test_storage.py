import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama
from torch import nn
from transformers import LlamaForCausalLM

from qlora_repro.errors import ModelError
from qlora_repro.quant.bitsandbytes import quantize_in_place
from qlora_repro.quant.fake_quant import simulate_quantization
from qlora_repro.quant.linear_layers import find_quantizable_layers
from qlora_repro.quant.storage import measure_storage
from qlora_repro.records import BaseWeights


@pytest.fixture
def model() -> LlamaForCausalLM:
    """A random Llama whose matrices have thousands of scales each, as real ones do."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1}
    return make_llama(vocab_size=128, num_attention_heads=8, pad_token_id=2, **sizes)


def measured(
    model: LlamaForCausalLM, *, backend: str, dtype: str = "nf4", blocksize: int = 64, dq: bool
) -> BaseWeights:
    names = find_quantizable_layers(model)
    if backend == "bnb":
        quantize_in_place(
            model, names, dtype=dtype, blocksize=blocksize, dq=dq, compute_dtype=torch.float32
        )
    else:
        simulate_quantization(model, names, dtype=dtype, blocksize=blocksize, dq=dq)
    return measure_storage(model)


@pytest.mark.parametrize("backend", ["bnb", "simulated"])
@pytest.mark.parametrize(("dq", "bits"), [(False, 4.5), (True, 4.127)])
def test_blocks_of_64_take_the_bits_the_paper_says(
    model: LlamaForCausalLM, backend: str, dq: bool, bits: float
) -> None:
    found = measured(model, backend=backend, dq=dq)
    assert found.bits_per_parameter == pytest.approx(bits, abs=1e-3)
    assert found.double_quantized == (found.modules if dq else 0)
    assert found.blocksizes == [64]
    assert found.simulated is (backend == "simulated")
    assert found.parameters == 4 * 512 * 512 + 3 * 512 * 1024


@pytest.mark.parametrize("dq", [False, True])
def test_a_simulated_layer_counts_the_bytes_that_bitsandbytes_holds(
    model: LlamaForCausalLM, dq: bool
) -> None:
    one = measured(model, backend="simulated", blocksize=128, dq=dq)
    names = find_quantizable_layers(model)
    quantize_in_place(model, names, dtype="nf4", blocksize=128, dq=dq, compute_dtype=torch.float32)
    other = measure_storage(model)
    assert (one.code_bytes, one.scale_bytes) == (other.code_bytes, other.scale_bytes)
    assert one.table_bytes == 0 < other.table_bytes


def test_int8_takes_8_bits_and_a_scale_a_row(llama: LlamaForCausalLM) -> None:
    found = measured(llama, backend="bnb", dtype="int8", dq=False)
    rows = 2 * (2 * 64 + 2 * 32 + 2 * 128 + 64)
    assert found.kinds == {"Linear8bitLt": 14}
    assert found.code_bytes == found.parameters
    assert found.scale_bytes == 4 * rows
    assert found.blocksizes == [None]


def test_a_peft_wrapper_changes_nothing_but_the_adapters(llama: LlamaForCausalLM) -> None:
    for backend in ("simulated", "bnb"):
        copy = LlamaForCausalLM(llama.config)
        bare = measured(copy, backend=backend, dq=True)
        wrapped = measure_storage(get_peft_model(copy, LoraConfig(r=4, target_modules=["q_proj"])))
        adapter = {"role": "adapter", "dtype": "float32", "params": 2 * 4 * (64 + 64)}
        assert wrapped.kept == [adapter, *bare.kept]
        assert (wrapped.kinds, wrapped.parameters) == (bare.kinds, bare.parameters)
        assert wrapped.bits_per_parameter == bare.bits_per_parameter


def test_what_is_kept_is_told_by_role_and_dtype(llama: LlamaForCausalLM) -> None:
    llama.lm_head.to(torch.bfloat16)
    linear = sum(
        llama.get_submodule(name).weight.numel() for name in find_quantizable_layers(llama)
    )
    assert [tuple(part.values()) for part in measure_storage(llama).kept] == [
        ("embedding", "float32", 128 * 64),
        ("linear", "bfloat16", 128 * 64),
        ("linear", "float32", linear),
        ("norm", "float32", 5 * 64),
    ]


def test_a_model_that_is_not_quantized_has_no_bits_per_parameter(llama: LlamaForCausalLM) -> None:
    found = measure_storage(llama)
    assert found.bits_per_parameter is None
    assert found.modules == found.double_quantized == 0


def test_a_layer_that_never_got_its_codes_is_refused() -> None:
    model = nn.Sequential(Linear4bit(64, 64))
    with pytest.raises(ModelError, match="0 is a Linear4bit without codes"):
        measure_storage(model)
