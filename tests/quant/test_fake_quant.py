import copy

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from qlora_repro.quant.blockwise import double_quantize
from qlora_repro.quant.fake_quant import round_trip, simulate_quantization
from qlora_repro.quant.linear_layers import find_quantizable_layers


def test_only_named_weights_change_and_each_is_marked(llama: LlamaForCausalLM) -> None:
    before = copy.deepcopy(llama.state_dict())
    names = find_quantizable_layers(llama)
    simulate_quantization(llama, names, dtype="nf4", blocksize=64, dq=True)
    changed = {k for k, v in llama.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{name}.weight" for name in names}
    for name in changed:
        change = (llama.state_dict()[name] - before[name]).norm() / before[name].norm()
        assert 0.05 < change < 0.15  # 0.09 for normal weights
    marked = {name for name, module in llama.named_modules() if hasattr(module, "simulated")}
    assert marked == set(names)
    assert not llama.get_submodule(names[0]).weight.requires_grad
    assert llama.lm_head.weight.requires_grad


def test_conv1d_is_quantized_along_its_inputs_as_a_linear_layer_is() -> None:
    conv, linear = Conv1D(96, 64), nn.Linear(64, 96)  # both 64 -> 96
    linear.weight.data = conv.weight.data.T.clone()
    for module in (conv, linear):
        simulate_quantization(
            nn.ModuleDict({"x": module}), ["x"], dtype="nf4", blocksize=64, dq=False
        )
    assert torch.equal(conv.weight.T, linear.weight)


@pytest.mark.parametrize(
    ("dq", "bytes_per_scale"), [(False, 4.0), (True, 1 + 4 / 256)], ids=["plain", "dq"]
)
def test_the_mark_counts_what_codes_and_scales_would_take(dq: bool, bytes_per_scale: float) -> None:
    model = nn.Sequential(nn.Linear(256, 256))
    simulate_quantization(model, ["0"], dtype="int4", blocksize=64, dq=dq)
    state = model[0].simulated["weight"]
    assert state.code_bytes == 256 * 256 // 2
    assert state.scale_bytes == 1024 * bytes_per_scale + (4 if dq else 0)  # 4: the offset


def test_any_block_size_goes() -> None:
    weight = torch.randn(5, 33)
    read = round_trip(weight, dtype="fp4_e2m1", blocksize=50, dq=True)
    assert read.shape == weight.shape
    assert (read - weight).norm() < 0.2 * weight.norm()


def test_a_bad_weight_is_refused_by_its_module_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"^0: 1 of 16 weights are NaN"):
        simulate_quantization(model, ["0"], dtype="nf4", blocksize=64, dq=False)


def test_af4_has_levels_of_its_own_in_other_blocks() -> None:
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    change = [
        (round_trip(weight, dtype=name, blocksize=1024, dq=False) - weight).abs().mean()
        for name in ("af4_l1", "af4", "nf4")
    ]
    assert change == sorted(change)  # Yoshida 2023: at large blocks NF4 wastes its outer levels


def test_a_type_of_the_text_for_the_constants_differs_from_the_released_one_and_is_marked() -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    once = round_trip(weight, dtype="nf4", blocksize=64, dq=False)
    released = round_trip(weight, dtype="nf4", blocksize=64, dq=True)
    text = round_trip(weight, dtype="nf4", blocksize=64, dq=True, scales="fp8_e4m3")
    assert not torch.equal(released, text)
    for read in (released, text):
        assert (read - once).norm() < 0.03 * once.norm()
    model = nn.Sequential(nn.Linear(256, 256))
    simulate_quantization(model, ["0"], dtype="nf4", blocksize=64, dq=True, scales="fp8_e4m3")
    assert model[0].simulated["weight"].scales == "fp8_e4m3"
    assert model[0].simulated["weight"].scale_bytes == 1024 + 4 * 4 + 4


def test_constants_in_e4m3_are_its_nearest_numbers() -> None:
    absmax = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    found = double_quantize(absmax, code="fp8_e4m3")
    centred, scale = absmax - absmax.mean(), found.absmax.repeat_interleave(256)[:1000] / 448
    theirs = (centred / scale).to(torch.float8_e4m3fn).float() * scale + absmax.mean()
    ties = (found.dequantize() - theirs).abs() > 1e-6  # torch rounds ties to even
    assert int(ties.sum()) <= 2
