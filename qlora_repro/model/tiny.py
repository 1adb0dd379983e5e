"""Random models of every family with a real tokenizer: for tests, never for a result.

Every size is a multiple of 64, so that weights fill whole quantization blocks. They are checkpoints
on disk, read back by the code that reads any other.
"""

import hashlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from qlora_repro.errors import ConfigError
from qlora_repro.model.cache import build_once
from qlora_repro.model.library_logging import silence_transformers

SEED = 0
VOCAB = 512
HIDDEN, INNER, LAYERS, HEADS, HEAD, POSITIONS = 128, 256, 2, 2, 64, 2048
BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"  # ids 0 to 3
TEXT = """
How many letters does the word have? Count them one by one. The answer is 3. What is 12 + 7 - 5?
What day of the week comes ten days after Monday? If all birds are animals and no animals are
stones, then no birds are stones. Is this true or false? Who is the mother of Anna's brother? She is
her mother too. Write a short reply to the question, and explain in one sentence why it is right.
Question: Answer: user assistant 0 1 2 3 4 5 6 7 8 9 10 20 30 100 1000 January February March April
the of and to in is that it was for on are with as his they be at one have this from or had by not
but some what there we can out other were all your when up use word how said an each she which do
Monday Tuesday Wednesday Thursday Friday Saturday Sunday letters family calendar sum words
"""

# What a causal, seq2seq or classification model is when no family is named.
DEFAULT_FAMILIES = {"causal": "llama", "seq2seq": "t5", "classification": "roberta"}

_DECODER = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}
_GROUPED = _DECODER | {"intermediate_size": INNER, "num_key_value_heads": 1, "head_dim": HEAD}
_ENCODER = _DECODER | {"intermediate_size": INNER, "num_labels": 2}
_T5 = {"d_model": HIDDEN, "d_kv": HEAD, "d_ff": INNER, "num_layers": LAYERS, "num_heads": HEADS}

# family -> (configuration class, model class, sizes)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", _GROUPED),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _GROUPED),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _DECODER | {"intermediate_size": INNER}),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        _DECODER | {"ffn_dim": INNER, "word_embed_proj_dim": 64},  # projections, as in OPT 350M
    ),
    "bloom": (
        "BloomConfig",
        "BloomForCausalLM",
        {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS},
    ),
    "bert": ("BertConfig", "BertForSequenceClassification", _ENCODER),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", _ENCODER),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},  # T5 1.1
    ),
    "t5_relu": ("T5Config", "T5ForConditionalGeneration", _T5),  # the first T5: one wi
}


def make_tiny_checkpoint(name: str, *, pad_is_eos: bool = False) -> Path:
    """Return a folder with a random model and its tokenizer, the same bytes on every machine.

    `name` is a kind (causal, seq2seq, classification) or a family (llama, opt, …). With
    `pad_is_eos` padding and end of sequence are one token. The folder is in the user's cache.

    Raises:
        ConfigError: the name is neither.
    """
    family = DEFAULT_FAMILIES.get(name, name)
    if family not in FAMILIES:
        known = ", ".join((*DEFAULT_FAMILIES, *FAMILIES))
        raise ConfigError(f"there is no tiny model for {name!r}; there are {known}")
    recipe = inspect.getsource(sys.modules[__name__]) + transformers.__version__
    suffix = "-pad_is_eos" if pad_is_eos else ""
    folder = f"tiny-{family}{suffix}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"

    def build_checkpoint(target: Path) -> None:
        tokenizer = make_tiny_tokenizer(bos=not family.startswith("t5"), pad_is_eos=pad_is_eos)
        with silence_transformers():
            make_tiny_model(family, tokenizer).save_pretrained(target)
            tokenizer.save_pretrained(target)

    return build_once(folder, build_checkpoint)


def make_tiny_model(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a random model in float32 whose special tokens are the tokenizer's."""
    config_class, model_class, sizes = FAMILIES[family]
    pad = tokenizer.pad_token_id
    config = getattr(transformers, config_class)(
        vocab_size=VOCAB,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
        **(sizes | ({"decoder_start_token_id": pad} if family.startswith("t5") else {})),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: PreTrainedModel = getattr(transformers, model_class)(config)
    return model


def make_tiny_tokenizer(*, bos: bool, pad_is_eos: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of 512 tokens, learned from a few sentences: any text goes in.

    It writes <s> before a text when `bos`, and </s> after it otherwise, as T5 does.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[BOS, EOS, PAD, UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(TEXT.splitlines(), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A" if bos else f"$A {EOS}",
        special_tokens=[(BOS, core.token_to_id(BOS)), (EOS, core.token_to_id(EOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS if bos else None,
        eos_token=EOS,
        pad_token=EOS if pad_is_eos else PAD,
        unk_token=UNK,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
