from typing import Any

import pytest
import torch
from tiny_models import make_byte_tokenizer, make_llama
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlora_repro.config.schema import EvalConfig

EOS = "<eos>"


@pytest.fixture
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, no files: text and tokens can be counted by hand."""
    return make_byte_tokenizer(pad=True)


@pytest.fixture
def random_llama() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_llama(
            vocab_size=258,
            hidden_size=32,
            intermediate_size=64,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
            initializer_range=0.5,  # far from uniform, so that choices differ clearly
        )
    return model.eval()


@pytest.fixture
def eval_config() -> Any:
    def make(**changed: Any) -> EvalConfig:
        values: dict[str, Any] = {
            "name": "test",
            "tasks": ["procedural_mc", "procedural_exact"],
            "num_fewshot": 0,
            "limit": None,
            "batch_size": 4,
            "include_path": None,
            "apply_chat_template": False,
            "template": "plain",
            "kinds": None,
            "n": 3,
            "seed": 1,
            "perplexity_file": None,
            "perplexity_tokens": None,
            "perplexity_window": 32,
            "perplexity_stride": None,
            "reference": False,
            "rouge": False,
            "max_new_tokens": 4,
        }
        return EvalConfig(**(values | changed))

    return make
