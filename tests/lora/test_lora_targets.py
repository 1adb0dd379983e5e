from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from qlora_repro.errors import ConfigError
from qlora_repro.lora.adapter import find_lora_targets
from qlora_repro.lora.targets import TARGETS
from qlora_repro.model.tiny import FAMILIES, LAYERS
from qlora_repro.quant.linear_layers import find_linear_layers

GATED = {"q": 2, "k": 2, "v": 2, "o": 2, "gate": 2, "up": 2, "down": 2}
FUSED = {"qkv": 2, "o": 2, "up": 2, "down": 2}
PLAIN = {"q": 2, "k": 2, "v": 2, "o": 2, "up": 2, "down": 2}
# Two layers each, counted by hand from the published architectures.
ROLE_COUNTS: dict[str, dict[str, int]] = {
    "llama": GATED,
    "mistral": GATED,
    "qwen2": GATED,
    "qwen3": GATED,
    "gpt_neox": FUSED,
    "bloom": FUSED,
    "gpt2": FUSED,
    "opt": PLAIN | {"other": 2},  # into and out of the smaller embedding
    "bert": PLAIN | {"other": 1},  # the pooler
    "roberta": PLAIN,
    # attention in the encoder, in the decoder, and across: three times two
    "t5": {"q": 6, "k": 6, "v": 6, "o": 6, "gate": 4, "up": 4, "down": 4},
    "t5_relu": {"q": 6, "k": 6, "v": 6, "o": 6, "up": 4, "down": 4},
}


def empty(family: str) -> PreTrainedModel:
    """The family's tiny model without storage: names are all that matters here."""
    config, model, sizes = FAMILIES[family]
    with torch.device("meta"):
        made: PreTrainedModel = getattr(transformers, model)(
            getattr(transformers, config)(
                vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes
            )
        )
    return made


def counted(found: dict[str, str]) -> dict[str, int]:
    roles = list(found.values())
    return {role: roles.count(role) for role in set(roles)}


def test_every_family_has_its_counts_here() -> None:
    assert set(ROLE_COUNTS) == set(FAMILIES)
    assert LAYERS == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["qv", "kq", "attention", "ffn", "all"])
def test_placement_adapts_the_layers_of_its_roles_and_no_others(family: str, target: str) -> None:
    wanted = {r: n for r, n in ROLE_COUNTS[family].items() if r in TARGETS[target]}
    if "qkv" in ROLE_COUNTS[family] and target in ("qv", "kq"):
        with pytest.raises(ConfigError, match=r"in one layer \(.*\); use lora=attention"):
            find_lora_targets(empty(family), target, layers=None)
        return
    assert counted(find_lora_targets(empty(family), target, layers=None)) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_embeddings_are_never_adapted(family: str) -> None:
    names = find_linear_layers(empty(family))
    assert len(names) == sum(ROLE_COUNTS[family].values())
    assert not [n for n in names if n.split(".")[0] in ("lm_head", "classifier", "score")]


def test_fused_projection_is_named_in_the_refusal() -> None:
    with pytest.raises(ConfigError, match=r"gpt_neox model.*layers.\*.attention.query_key_value"):
        find_lora_targets(empty("gpt_neox"), "qv", layers=None)


def test_layer_numbers_keep_those_layers() -> None:
    found = find_lora_targets(empty("llama"), "attention", layers=[1])
    assert list(found) == [f"model.layers.1.self_attn.{p}_proj" for p in "qkvo"]


def test_layer_number_means_that_block_in_both_stacks_of_t5() -> None:
    found = find_lora_targets(empty("t5"), "kq", layers=[0])
    assert counted(found) == {"q": 3, "k": 3}
    assert {name.split(".")[0] for name in found} == {"encoder", "decoder"}


def test_layer_numbers_leave_out_what_is_in_no_layer() -> None:
    assert "other" not in find_lora_targets(empty("opt"), "all", layers=[0, 1]).values()


@pytest.mark.parametrize(("layers", "shown"), [([0, 7, 2], r"\[2, 7\]"), ([], "no number")])
def test_layer_that_is_not_there_is_refused(layers: list[int], shown: str) -> None:
    with pytest.raises(ConfigError, match=f"lora.layers has {shown}, .* numbered 0 to 1"):
        find_lora_targets(empty("llama"), "all", layers=layers)


def test_regular_expression_must_match_a_whole_name() -> None:
    found = find_lora_targets(empty("llama"), r".*\.(q_proj|up_proj)", layers=None)
    assert counted(found) == {"q": 2, "up": 2}
    with pytest.raises(ConfigError, match="matches no linear layer"):
        find_lora_targets(empty("llama"), "q_proj", layers=None)


def test_regular_expression_never_reaches_the_head() -> None:
    with pytest.raises(ConfigError, match="matches no linear layer"):
        find_lora_targets(empty("llama"), "lm_head", layers=None)


def test_placement_without_a_match_lists_the_layers_with_their_number() -> None:
    with pytest.raises(ConfigError) as raised:
        find_lora_targets(empty("bert"), "atention", layers=None)
    text = str(raised.value)
    assert "lora.target='atention' (did you mean attention?) matches no linear layer" in text
    assert "bert.encoder.layer.*.attention.self.query (2)" in text
    assert "bert.pooler.dense (1)" in text
    assert text.count("query") == 1


def test_regular_expression_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"neither one of none, qv, .* nor a regular expression"):
        find_lora_targets(empty("llama"), "q_proj(", layers=None)


def test_family_without_roles_takes_all_and_regular_expressions_only() -> None:
    model = empty("llama")
    config: Any = model.config
    config.model_type = "abacus"
    assert len(find_lora_targets(model, "all", layers=None)) == 14
    with pytest.raises(ConfigError, match=r"lora.target='attention' matches no linear layer"):
        find_lora_targets(model, "attention", layers=None)
