from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from qlora_repro.errors import ConfigError
from qlora_repro.model.tiny import FAMILIES, VOCAB, make_tiny_checkpoint


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_matrix_fills_whole_blocks(family: str) -> None:
    weights = load_file(make_tiny_checkpoint(family) / "model.safetensors")
    matrices = {n: w for n, w in weights.items() if w.ndim == 2 and "classifier" not in n}
    assert matrices
    for name, weight in matrices.items():
        small = "relative_attention_bias" in name or "position" in name or "token_type" in name
        assert small or not [size for size in weight.shape if size % 64], name


def test_two_caches_get_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for cache in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        torch.rand(3)  # what was drawn before must not matter
        folders.append(make_tiny_checkpoint("causal"))
    one, two = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert one == two


def test_making_one_leaves_the_global_generator_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.get_rng_state()
    make_tiny_checkpoint("seq2seq")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", ["Count 3 letters: é, 漢, 🙂.", " two  spaces\n\nand lines\t", ""])
def test_tokenizer_gives_any_text_back(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_checkpoint("causal"))
    assert len(tokenizer) == VOCAB
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tokenizer_of_t5_closes_a_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_checkpoint("t5"))
    assert tokenizer("a b").input_ids[-1] == tokenizer.eos_token_id


def test_padding_can_be_the_end_of_sequence() -> None:
    plain = AutoTokenizer.from_pretrained(make_tiny_checkpoint("causal"))
    shared = AutoTokenizer.from_pretrained(make_tiny_checkpoint("causal", pad_is_eos=True))
    assert plain.pad_token_id != plain.eos_token_id
    assert shared.pad_token_id == shared.eos_token_id


def test_unknown_family_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ConfigError, match="no tiny model for 'mamba'; there are causal, seq2seq"):
        make_tiny_checkpoint("mamba")
