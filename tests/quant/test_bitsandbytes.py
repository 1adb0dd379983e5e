import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.quant import bitsandbytes
from qlora_repro.quant.bitsandbytes import (
    StreamingConfig,
    dequantize_weight,
    disable_cpu_repacking,
    quantize_in_place,
)
from qlora_repro.quant.fake_quant import simulate_quantization
from qlora_repro.quant.linear_layers import find_quantizable_layers

IDS = torch.arange(3, 35).view(2, 16)
F32 = torch.float32


def streamed(
    folder: Path,
    *,
    dtype: str = "nf4",
    blocksize: int = 64,
    dq: bool = True,
    torch_dtype: torch.dtype = F32,
) -> PreTrainedModel:
    config = StreamingConfig(dtype, blocksize=blocksize, dq=dq, compute_dtype=torch_dtype)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch_dtype, quantization_config=config
    )


def weights(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    return {name: dequantize_weight(model.get_submodule(name)) for name in names}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture
def saved(llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    """A checkpoint of float32 weights that hold bf16 values."""
    for weight in llama.parameters():
        weight.data = weight.data.bfloat16().float()
    llama.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dq", [False, True])
@pytest.mark.parametrize("blocksize", [32, 64])  # that the llama's rows of 64 and 128 divide into
def test_streamed_weights_read_as_simulated_ones_do_to_the_bit(
    llama: LlamaForCausalLM, saved: Path, blocksize: int, dq: bool
) -> None:
    model = streamed(saved, dtype="nf4", blocksize=blocksize, dq=dq)
    names = find_quantizable_layers(llama)
    assert [n for n, m in model.named_modules() if isinstance(m, Linear4bit)] == names
    assert {model.get_submodule(n).weight.quant_state.blocksize for n in names} == {blocksize}
    simulate_quantization(llama, names, dtype="nf4", blocksize=blocksize, dq=dq)
    assert_same(weights(model, names), weights(llama, names))


@pytest.mark.parametrize("torch_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["nf4", "fp4"])
def test_both_backends_give_the_same_logits(
    saved: Path, dtype: str, torch_dtype: torch.dtype
) -> None:
    held = streamed(saved, dtype=dtype, torch_dtype=torch_dtype)
    plain = AutoModelForCausalLM.from_pretrained(saved, dtype=torch_dtype)
    simulate_quantization(plain, find_quantizable_layers(plain), dtype=dtype, blocksize=64, dq=True)
    with torch.no_grad():
        left, right = held(IDS).logits, plain(IDS).logits
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)


def test_a_held_layer_computes_what_its_dequantized_weight_computes(saved: Path) -> None:
    layer = streamed(saved).get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(5, 64, requires_grad=True)
    expected = nn.functional.linear(x, dequantize_weight(layer))
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", ["nf4", "fp4", "int8"])
def test_in_place_and_streamed_weights_are_the_same(
    llama: LlamaForCausalLM, saved: Path, dtype: str
) -> None:
    names = find_quantizable_layers(llama)
    dq = dtype != "int8"
    held = streamed(saved, dtype=dtype, dq=dq)
    quantize_in_place(llama, names, dtype=dtype, blocksize=64, dq=dq, compute_dtype=F32)
    assert_same(weights(held, names), weights(llama, names))
    assert isinstance(llama.lm_head, nn.Linear)


def test_int8_has_a_scale_for_each_row(llama: LlamaForCausalLM, saved: Path) -> None:
    name = "model.layers.1.self_attn.q_proj"
    weight = llama.get_submodule(name).weight.detach()
    held = streamed(saved, dtype="int8", dq=False)
    read = dequantize_weight(held.get_submodule(name))
    assert isinstance(held.get_submodule(name), Linear8bitLt)
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((read - weight).abs() <= 0.51 * step).all()  # half a step, and float16 on the way
    held.train()(IDS)  # the scales move to the module's state
    assert torch.equal(dequantize_weight(held.get_submodule(name)), read)


def test_conv1d_is_held_as_its_transpose() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=64, n_layer=1, n_head=4)).eval()
    plain, names = copy.deepcopy(model), find_quantizable_layers(model)
    quantize_in_place(model, names, dtype="nf4", blocksize=64, dq=True, compute_dtype=F32)
    simulate_quantization(plain, names, dtype="nf4", blocksize=64, dq=True)
    assert_same(weights(model, names), weights(plain, names))
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, atol=1e-6, rtol=0)


def test_t5_computes_the_same_with_all_of_its_layers_held(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "d_model": 64, "d_kv": 16, "d_ff": 128}
    config = T5Config(
        **sizes, num_layers=1, num_heads=4, tie_word_embeddings=False, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    quantization = StreamingConfig("nf4", blocksize=64, dq=True, compute_dtype=F32)
    held = AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path, dtype=F32, quantization_config=quantization
    )
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=F32)
    simulate_quantization(plain, find_quantizable_layers(plain), dtype="nf4", blocksize=64, dq=True)
    outputs = [model(input_ids=IDS, labels=IDS).logits for model in (held, plain)]
    assert isinstance(held.encoder.block[0].layer[1].DenseReluDense.wo, Linear4bit)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=1e-6)


def gradients(model: PeftModel) -> tuple[float, dict[str, Tensor]]:
    model.train().zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("blocksize", [32, 64])
def test_lora_trains_and_an_eval_pass_changes_no_gradient(saved: Path, blocksize: int) -> None:
    targets = ["q_proj", "down_proj"]
    model = get_peft_model(
        streamed(saved, blocksize=blocksize), LoraConfig(r=4, target_modules=targets)
    )
    wrapped = {type(m).__module__ for m in model.modules() if hasattr(m, "lora_A")}
    assert wrapped == {"peft.tuners.lora.bnb"}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    first, _ = gradients(model)
    optimizer.step()
    loss, before = gradients(model)
    assert loss < first
    model.eval()
    with torch.no_grad():
        model(IDS, labels=IDS)
    again, after = gradients(model)
    assert again == loss
    assert_same(after, before)


def test_both_backends_give_the_same_first_gradients(saved: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(saved, dtype=F32)
    simulate_quantization(plain, find_quantizable_layers(plain), dtype="nf4", blocksize=64, dq=True)
    results = []
    for model in (streamed(saved), plain):
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
        results.append(gradients(get_peft_model(model, lora)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], atol=1e-6, rtol=0)


def test_no_layer_is_left_to_repack_its_weight(llama: LlamaForCausalLM, saved: Path) -> None:
    model = streamed(saved)
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    assert disable_cpu_repacking(model) == len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    assert disable_cpu_repacking(llama) == 0


def test_a_skipped_module_stays_plain(saved: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    config = StreamingConfig("nf4", blocksize=64, dq=True, compute_dtype=F32, skip=[name])
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=F32, quantization_config=config)
    assert type(model.get_submodule(name)) is nn.Linear
    assert sum(isinstance(module, Linear4bit) for module in model.modules()) == 13


def test_a_saved_model_loads_in_plain_transformers(saved: Path, tmp_path: Path) -> None:
    model = streamed(saved, blocksize=32)
    model.save_pretrained(tmp_path / "held")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "held")
    names = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    assert_same(weights(again, names), weights(model, names))


@pytest.mark.parametrize("dtype", ["nf4", "int8"])
def test_a_checkpoint_without_a_weight_is_refused(saved: Path, dtype: str) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no weight for model.layers.0.self_attn.q_proj,"):
        streamed(saved, dtype=dtype, dq=False)


def test_what_bitsandbytes_lacks_is_refused_before_anything_loads() -> None:
    with pytest.raises(ConfigError, match="dtype is int4, and bitsandbytes holds nf4, fp4, int8"):
        StreamingConfig("int4", blocksize=64, dq=True, compute_dtype=F32)
    with pytest.raises(ConfigError, match="blocksize is 48, and bitsandbytes has 32, 64"):
        StreamingConfig("nf4", blocksize=48, dq=True, compute_dtype=F32)


def test_only_linear_layers_are_quantized_and_read(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match=r"model.norm is a LlamaRMSNorm"):
        quantize_in_place(
            llama, ["model.norm"], dtype="nf4", blocksize=64, dq=True, compute_dtype=F32
        )
    with pytest.raises(ModelError, match="LlamaRMSNorm has no linear layer's weight"):
        dequantize_weight(llama.model.norm)


def test_a_layer_that_bitsandbytes_would_misread_is_refused_with_what_would_do(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CPU with AVX-512, which this machine may lack."""
    monkeypatch.setattr(
        bitsandbytes, "reads_back_exactly", lambda columns, *rest: columns % rest[1] == 0
    )
    message = (
        r"misreads model\.layers\.0\.self_attn\.q_proj .* rows of 64 weights do not divide into "
        r"blocks of 128; use dtype\.blocksize=32 or 64, or dtype\.backend=simulated"
    )
    names = find_quantizable_layers(llama)
    fmt: dict[str, Any] = {"dtype": "nf4", "dq": True, "compute_dtype": torch.float32}
    with pytest.raises(ModelError, match=message):
        quantize_in_place(copy.deepcopy(llama), names, blocksize=128, **fmt)
    quantize_in_place(llama, names, blocksize=64, **fmt)
