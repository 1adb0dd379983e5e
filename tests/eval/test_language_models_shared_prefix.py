from typing import Any

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from qlora_repro.eval.language_models import SharedContextLM
from qlora_repro.model.library_logging import silence_lm_eval

SMALL: dict[str, Any] = {"vocab_size": 258, "hidden_size": 32, "num_attention_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_hidden_layers": 2, "intermediate_size": 64}),
    "neox": ("GPTNeoX", {"num_hidden_layers": 2, "intermediate_size": 64}),
    "opt": ("OPT", {"num_hidden_layers": 2, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "bloom": ("Bloom", {"n_layer": 2, "n_head": 4}),
    "gpt2": ("GPT2", {"n_layer": 2, "n_head": 4, "n_embd": 32}),
    "mistral": (
        "Mistral",
        {"num_hidden_layers": 2, "intermediate_size": 64, "num_key_value_heads": 2},
    ),
}


@pytest.mark.parametrize("family", MODELS)
def test_likelihoods_equal_those_of_hflm(
    family: str, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    name, extra = MODELS[family]
    config = getattr(transformers, f"{name}Config")(
        **(SMALL | {"initializer_range": 0.2, "init_std": 0.2} | extra)
    )
    kind = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).eval()
    pairs = [
        (context, answer)
        for context in ("Short?", "A longer question, is it not?", "Middling one?")
        for answer in (" 3", " 31", " 35", " Tuesday", "x")
    ]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=k)
        for k, pair in enumerate(pairs)
    ]
    wrapped = {"pretrained": model, "tokenizer": byte_tokenizer, "backend": "causal"}
    with silence_lm_eval(), torch.no_grad():
        expected = HFLM(batch_size=1, **wrapped).loglikelihood(requests)
        found = SharedContextLM(batch_size=2, **wrapped).loglikelihood(requests)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-4)
