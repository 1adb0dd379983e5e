import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from qlora_repro.errors import ModelError
from qlora_repro.quant.bitsandbytes import quantize_in_place
from qlora_repro.quant.linear_layers import find_quantizable_layers


def left_out(model: PreTrainedModel) -> set[str]:
    chosen = set(find_quantizable_layers(model))
    every = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return every - chosen


def test_all_linear_layers_of_a_language_model_are_chosen_but_its_head(
    llama: LlamaForCausalLM,
) -> None:
    assert left_out(llama) == {"lm_head"}
    assert len(find_quantizable_layers(llama)) == 2 * 7


def test_a_head_that_shares_the_embedding_stays_too() -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    assert left_out(LlamaForCausalLM(config)) == {"lm_head"}
    config.num_labels, config.pad_token_id = 3, 0
    assert left_out(LlamaForSequenceClassification(config)) == {"score"}


def test_a_classification_head_of_two_layers_stays_whole() -> None:
    config = RobertaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    model = RobertaForSequenceClassification(config)
    assert left_out(model) == {"classifier.dense", "classifier.out_proj"}


def test_no_layer_of_t5_is_left_out_in_silence() -> None:
    config = T5Config(
        vocab_size=64,
        d_model=64,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        tie_word_embeddings=False,
    )
    assert left_out(T5ForConditionalGeneration(config)) == {"lm_head"}


def test_conv1d_layers_of_gpt2_are_chosen() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=4))
    ends = [name.split(".h.0.")[1] for name in find_quantizable_layers(model)]
    assert ends == ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


def test_a_skipped_module_is_left_out(llama: LlamaForCausalLM) -> None:
    skipped = "model.layers.0.mlp.up_proj"
    assert set(find_quantizable_layers(llama)) - set(
        find_quantizable_layers(llama, skip=[skipped])
    ) == {skipped}


def test_a_model_that_is_quantized_already_is_refused(llama: LlamaForCausalLM) -> None:
    names = find_quantizable_layers(llama)
    quantize_in_place(llama, names, dtype="nf4", blocksize=64, dq=True, compute_dtype=torch.float32)
    with pytest.raises(ModelError, match=r"q_proj is a Linear4bit, and only nn.Linear"):
        find_quantizable_layers(llama)


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="Sequential has no linear layer"):
        find_quantizable_layers(nn.Sequential(nn.ReLU()))
