"""Sizes from the configuration alone: the published counts, and the live models'."""

from collections.abc import Callable

import pytest

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.lora.adapter import attach_lora, count_trainable, find_lora_targets
from qlora_repro.memory.architecture import adapted_layers, llama_architecture
from qlora_repro.memory.checkpoint_architecture import (
    read_checkpoint_architecture,
    read_model_architecture,
)
from qlora_repro.memory.settings import read_architecture
from qlora_repro.model.tiny import FAMILIES, make_tiny_model, make_tiny_tokenizer

Configured = Callable[..., RunConfig]
LLAMA = {  # parameters in billions, and LoRA's of r=64 on every linear layer in millions
    "llama_7b": (6.738, 159.9),
    "llama_13b": (13.016, 250.3),
    "llama_33b": (32.529, 487.6),
    "llama_65b": (65.286, 799.5),
    "llama2_7b": (6.738, 159.9),
    "llama2_13b": (13.016, 250.3),
}
PUBLISHED = {  # exact counts of the released checkpoints
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_1_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "smollm2_135m": 134_515_008,
}


@pytest.mark.parametrize(("name", "counts"), LLAMA.items())
def test_llama_has_the_published_parameters_and_adapters(
    name: str, counts: tuple[float, float], configured: Configured
) -> None:
    cfg = configured(f"model={name}", "stages=[plan]")
    sizes, linears = read_architecture(cfg.model, "all", layers=None)
    assert round(sizes.params / 1e9, 3) == counts[0]
    assert round(sum(x.adapter_params(64) for x in linears) / 1e6, 1) == counts[1]


@pytest.mark.parametrize(("name", "params"), PUBLISHED.items())
def test_grouped_heads_and_tied_embeddings_count_as_published(
    name: str, params: int, configured: Configured
) -> None:
    sizes, _ = read_architecture(configured(f"model={name}").model, "none", layers=None)
    assert sizes.params == params


@pytest.mark.parametrize("model", ["tiny", "smollm2_135m"])
@pytest.mark.parametrize("target", ["all", "qv", "ffn", "none"])
def test_written_sizes_and_the_checkpoint_give_the_same_architecture(
    model: str, target: str, configured: Configured
) -> None:
    section = configured(f"model={model}").model
    layers = [1] if target != "none" else None
    assert read_architecture(section, target, layers=layers) == read_checkpoint_architecture(
        section, target, layers=layers
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_counts_each_parameter_once_and_each_adapter(family: str) -> None:
    model = make_tiny_model(
        family, make_tiny_tokenizer(bos=not family.startswith("t5"), pad_is_eos=False)
    )
    found = read_model_architecture(model)
    assert found.params == sum(weight.numel() for weight in model.parameters())
    names = list(find_lora_targets(model, "all", layers=None))
    wanted = sum(x.adapter_params(8) for x in found.linears if x.name in names)
    live = attach_lora(model, names, r=8, alpha=16, dropout=0.0, rslora=False, seed=0)
    assert count_trainable(live)["adapter"] == wanted
    assert {x.name for block in found.blocks for x in block} <= set(names)


def test_a_block_that_there_is_not_is_refused(configured: Configured) -> None:
    section = configured("model=tiny").model.architecture
    assert section is not None
    with pytest.raises(ConfigError, match=r"\[7\], and this model's layers are numbered 0 to 1"):
        adapted_layers(llama_architecture(section).linears, "all", layers=[7])


def test_heads_that_do_not_divide_the_hidden_size_are_refused(configured: Configured) -> None:
    section = configured("model=tiny", "model.architecture.num_attention_heads=3").model
    with pytest.raises(ConfigError, match="hidden_size=128 does not divide"):
        read_architecture(section, "all", layers=None)


def test_a_regular_expression_is_looked_up_in_the_model(configured: Configured) -> None:
    section = configured("model=tiny").model
    _, linears = read_architecture(section, r".*layers\.1\..*q_proj", layers=None)
    assert [x.name for x in linears] == ["model.layers.1.self_attn.q_proj"]
