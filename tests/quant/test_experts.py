"""Mixtures of experts, whose experts are one 3-D weight a layer and no linear layers."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from qlora_repro import manifest, pipeline, session
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ModelError, RunError
from qlora_repro.model import load
from qlora_repro.model.tiny import make_tiny_tokenizer
from qlora_repro.quant.fake_quant import round_trip, simulate_quantization
from qlora_repro.quant.linear_layers import find_expert_weights, find_quantizable_layers
from qlora_repro.quant.storage import find_unquantized_weights, measure_storage

EXPERTS, HIDDEN, INNER, LAYERS = 4, 128, 256, 2
SIZES = {
    "vocab_size": 512,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "moe_intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_local_experts": EXPERTS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "pad_token_id": 2,
}
FAMILIES = ("Mixtral", "Qwen3Moe", "Olmoe")
IN_EXPERTS = LAYERS * EXPERTS * 3 * HIDDEN * INNER


def mixture(family: str) -> PreTrainedModel:
    """A random mixture of experts in float32."""
    config_class = getattr(transformers, f"{family}Config")
    known = inspect.signature(config_class).parameters
    sizes = {name: size for name, size in SIZES.items() if name in known}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(
            config_class(**sizes)
        )
    return model


@pytest.fixture
def cell(
    configured: Callable[..., RunConfig], tmp_path: Path
) -> Callable[..., tuple[RunConfig, Any]]:
    """Configure a run on a mixture that lies in a folder."""

    def make(family: str, *words: str) -> RunConfig:
        folder = tmp_path / family
        mixture(family).save_pretrained(folder)
        make_tiny_tokenizer(bos=True, pad_is_eos=False).save_pretrained(folder)
        return configured(
            *("model=local", f"model.path={folder}", "model.device=cpu", "data.rows=16"),
            *("train.max_steps=1", "stages=[train]", "lora=all", "lora.r=4"),
            *("dtype.compute_dtype=float32", f"results_dir={tmp_path / 'results'}", *words),
        )

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_bitsandbytes_is_refused_before_most_weights_pass_as_quantized(
    family: str, cell: Callable[..., RunConfig]
) -> None:
    cfg = cell(family, "dtype.backend=bnb")
    with pytest.raises(
        ModelError, match=r"experts.gate_up_proj holds all experts .*dtype.backend=simulated"
    ):
        load.load_base(cfg.model, cfg.dtype, dq=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_simulated_experts_are_quantized_like_linear_layers_of_their_own(
    family: str, cell: Callable[..., RunConfig]
) -> None:
    cfg = cell(family, "dtype.backend=simulated")
    plain = mixture(family)
    live_model = load.load_base(cfg.model, cfg.dtype, dq=True).model
    names = find_expert_weights(plain)
    assert len(names) == 2 * LAYERS
    for name in names:
        for before, after in zip(
            plain.get_parameter(name), live_model.get_parameter(name), strict=True
        ):
            wanted = round_trip(before, dtype="nf4", blocksize=64, dq=True)
            assert torch.equal(after, wanted)


def test_the_manifest_counts_the_experts_parameters(cell: Callable[..., RunConfig]) -> None:
    found = pipeline.run_stages(cell("Mixtral", "dtype.backend=simulated")).manifest
    base = found.to_json()["base"]
    attention = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * 64)
    assert base["parameters"] == IN_EXPERTS + attention
    assert base["kinds"] == {"simulated": 4 * LAYERS, "simulated_experts": 2 * LAYERS}
    routers = LAYERS * EXPERTS * HIDDEN
    assert base["quantized_share"] == pytest.approx(
        base["parameters"] / (base["parameters"] + routers)
    )
    assert 4.12 < base["bits_per_parameter"] < 4.14  # 4 + 8/64 + 32/(64 * 256), and offsets


def test_experts_left_in_16_bits_contradict_the_configuration(
    cell: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "find_expert_weights", lambda model: [])
    cfg = cell("Mixtral", "dtype.backend=simulated")
    loaded = session.ModelSession(cfg, tmp_path).base()
    with pytest.raises(RunError, match=r"only [0-9.]+% of the parameters .*gate_up_proj is not"):
        manifest.describe_base_model(cfg, loaded)


def test_experts_stored_as_in_by_out_are_quantized_along_out_by_in() -> None:
    class Experts(nn.Module):
        is_transposed = True

        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(2, 128, 64))  # (E, in, out)

    model = nn.Sequential(Experts())
    before = model[0].up.detach().clone()
    simulate_quantization(model, ["0.up"], dtype="nf4", blocksize=32, dq=False)
    for one, two in zip(before, model[0].up, strict=True):
        assert torch.equal(two, round_trip(one.T, dtype="nf4", blocksize=32, dq=False).T)
    assert 0.05 < (model[0].up - before).norm() / before.norm() < 0.12
    assert measure_storage(model).parameters == 2 * 128 * 64


@pytest.mark.parametrize("family", FAMILIES)
def test_beside_experts_and_linear_layers_only_routers_are_left(family: str) -> None:
    model = mixture(family)
    layers = {f"{name}.weight" for name in find_quantizable_layers(model)}
    left = set(find_unquantized_weights(model)) - layers - set(find_expert_weights(model))
    assert left == {f"model.layers.{layer}.mlp.gate.weight" for layer in range(LAYERS)}
