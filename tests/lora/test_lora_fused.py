"""The fused LoRA layer, against PEFT's own forward and autograd."""

from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from qlora_repro.lora import fused
from qlora_repro.lora.fused import CastAdaptersOnce, FusedForward, fuse_lora_layers
from qlora_repro.quant.bitsandbytes import quantize_in_place
from qlora_repro.quant.linear_layers import find_quantizable_layers

IDS = torch.arange(5, 29).reshape(2, 12)
BASES = ("bnb", "plain")


def adapted(base: str, dtype: torch.dtype, *, adapters: torch.dtype, dropout: float = 0.0) -> Any:
    """Return a tiny Llama with adapters that are not zero, in train mode."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=2)).to(dtype)
    if base == "bnb":
        how: dict[str, Any] = {"dtype": "nf4", "blocksize": 64, "dq": True}
        quantize_in_place(model, find_quantizable_layers(model), compute_dtype=dtype, **how)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=dropout, target_modules="all-linear")
    peft = get_peft_model(model, lora, autocast_adapter_dtype=False)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            weight.data = (torch.randn(weight.shape) * 0.05).to(adapters)
    return peft.train()


def passes(model: PeftModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits and the gradients of one forward and backward pass."""
    torch.manual_seed(3)  # of the dropout masks
    out = model(input_ids=IDS, labels=IDS)
    out.loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return out.logits.detach(), {name: grad.clone() for name, grad in grads.items()}


def distance(one: Tensor, two: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((one.float() - two.float()).norm() / two.float().norm())


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("base", BASES)
def test_outputs_and_gradients_are_those_of_peft_up_to_rounding(base: str, dropout: float) -> None:
    plain = passes(adapted(base, torch.float32, adapters=torch.float32, dropout=dropout))
    model = adapted(base, torch.float32, adapters=torch.float32, dropout=dropout)
    assert fuse_lora_layers(model) == 14
    ours = passes(model)
    ulp = torch.finfo(torch.float32).eps
    assert distance(ours[0], plain[0]) < 64 * ulp  # sums of up to 128 products, in four layers
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        assert distance(ours[1][name], gradient) < 512 * ulp, name


def test_a_weight_that_is_read_in_one_pass_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes' own reading stands in for the kernel, which needs a GPU."""
    model = adapted("bnb", torch.float32, adapters=torch.float32)
    fuse_lora_layers(model)
    logits, gradients = passes(model)
    read: list[Tensor] = []

    def dequantize(packed: Tensor, state: Any) -> Tensor:
        read.append(packed)
        return dequantize_4bit(packed, state)

    monkeypatch.setattr(fused, "fits_one_pass", lambda packed, state: state.nested)
    monkeypatch.setattr(fused, "dequantize_in_one_pass", dequantize)
    again = adapted("bnb", torch.float32, adapters=torch.float32)
    fuse_lora_layers(again)
    logits_again, gradients_again = passes(again)
    assert len(read) == 14 + 11  # each forward; backward all but the three of the first input
    ulp = torch.finfo(torch.float32).eps
    assert distance(logits_again, logits) < 64 * ulp
    for name, gradient in gradients.items():
        assert distance(gradients_again[name], gradient) < 512 * ulp, name


@pytest.mark.parametrize("base", BASES)
def test_adapters_of_32_bits_get_gradients_of_32_bits_from_passes_in_16(base: str) -> None:
    exact = passes(adapted(base, torch.float32, adapters=torch.float32))
    model = adapted(base, torch.bfloat16, adapters=torch.float32)
    fuse_lora_layers(model)
    _, gradients = passes(model)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert distance(gradient, exact[1][name]) < 0.1, name


def test_a_layer_keeps_its_input_and_its_low_rank_product_alone() -> None:
    """Bytes that autograd saves in a layer, counted by its own hooks."""
    model = adapted("bnb", torch.float32, adapters=torch.float32)
    fuse_lora_layers(model)
    layer = model.base_model.model.model.layers[0].mlp.gate_proj
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    x = torch.randn(24, 64, requires_grad=True)
    weights = {p.data_ptr() for p in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    kept = {pointer: n for pointer, n in saved.items() if pointer not in weights}
    assert sorted(kept.values()) == sorted([x.numel(), 24 * 8])


def test_what_does_not_fit_goes_through_peft() -> None:
    model = adapted("plain", torch.float32, adapters=torch.float32)
    ids = {"input_ids": IDS}
    with torch.no_grad():
        with model.disable_adapter():
            untuned = model(**ids).logits
        fuse_lora_layers(model)
        with model.disable_adapter():
            assert torch.equal(model(**ids).logits, untuned)
        tuned = model(**ids).logits
        assert distance(tuned, untuned) > 0.01
        model.merge_adapter()
        assert distance(model(**ids).logits, tuned) < 1e-5
        model.unmerge_adapter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(**ids).logits.dtype == torch.bfloat16


def test_fused_layers_leave_no_trace_when_adapters_come_off() -> None:
    model = adapted("bnb", torch.float32, adapters=torch.float32)
    fuse_lora_layers(model)
    base = model.unload()
    assert not any("forward" in vars(module) for module in base.modules())
    assert sum(isinstance(module, Linear4bit) for module in base.modules()) == 14


def test_adapters_are_cast_once_a_step_and_anew_in_the_next() -> None:
    model = adapted("plain", torch.bfloat16, adapters=torch.float32)
    fuse_lora_layers(model)
    watch = CastAdaptersOnce(model)
    forward = next(
        m.forward for m in model.modules() if isinstance(vars(m).get("forward"), FusedForward)
    )
    steps: Any = (None, None, None)
    watch.on_step_begin(*steps)
    model(input_ids=IDS)
    first = forward.cast
    model(input_ids=IDS)
    assert forward.cast is first is not None
    watch.on_pre_optimizer_step(*steps)
    assert forward.cast is None
    model(input_ids=IDS)
    assert forward.cast is None  # outside of a step weights may change at any time
