import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from model_sections import model_section
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from qlora_repro.config.schema import DtypeConfig
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.model import load
from qlora_repro.model.load import LoadedModel, load_base, load_trained
from qlora_repro.model.tiny import FAMILIES, make_tiny_checkpoint

BF16 = DtypeConfig("bf16", 64, "float32", "none", "dynamic8", None)
FP32 = DtypeConfig("fp32", 64, "float32", "none", "dynamic8", None)
NF4 = DtypeConfig("nf4", 64, "float32", "bnb", "dynamic8", None)
SIMULATED = DtypeConfig("nf4", 64, "float32", "simulated", "dynamic8", None)


def kind_of(family: str) -> str:
    if family.startswith("t5"):
        return "seq2seq"
    return "classification" if "bert" in family else "causal"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A copy of the tiny causal checkpoint that a test may damage."""
    return Path(shutil.copytree(make_tiny_checkpoint("causal"), tmp_path / "mine"))


def logits(loaded: LoadedModel) -> torch.Tensor:
    ids = loaded.tokenizer(["Count the letters 12", "a"], return_tensors="pt", padding=True)
    inputs = {"input_ids": ids.input_ids, "attention_mask": ids.attention_mask}
    if loaded.model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.input_ids
    with torch.no_grad():
        return loaded.model(**inputs).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_but_the_head_is_4bit_and_simulated_computes_the_same(
    family: str,
) -> None:
    labels = 2 if kind_of(family) == "classification" else None  # as on disk
    model = model_section(make_tiny_checkpoint(family), kind_of(family), num_labels=labels)
    streamed = load_base(model, NF4, dq=True)
    plain = {n for n, m in streamed.model.named_modules() if type(m) is torch.nn.Linear}
    assert {name.split(".")[0] for name in plain} <= {"lm_head", "classifier"}
    assert any(isinstance(m, Linear4bit) for m in streamed.model.modules())
    simulated = load_base(model, SIMULATED, dq=True)
    torch.testing.assert_close(logits(streamed), logits(simulated), atol=1e-6, rtol=1e-5)


def test_feed_forward_output_of_t5_is_quantized_although_transformers_would_skip_it() -> None:
    loaded = load_base(model_section(make_tiny_checkpoint("t5"), "seq2seq"), NF4, dq=False)
    outputs = [m for n, m in loaded.model.named_modules() if n.endswith("DenseReluDense.wo")]
    assert [type(m) for m in outputs] == [Linear4bit] * 4


def test_16_bit_weights_held_in_float32_are_bf16_values() -> None:
    folder = make_tiny_checkpoint("causal")
    disk = load_file(folder / "model.safetensors")
    loaded = load_base(model_section(folder), BF16, dq=False)
    for name, weight in loaded.model.named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, disk[name].bfloat16().float()), name
    moved = sum(int((w.bfloat16().float() != w).sum()) for w in disk.values())
    assert loaded.origin["rounded_to_bf16"] == moved > 0


def test_fp32_leaves_every_weight_as_it_is_on_disk() -> None:
    folder = make_tiny_checkpoint("causal")
    loaded = load_base(model_section(folder), FP32, dq=False)
    for name, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert loaded.origin["rounded_to_bf16"] == 0


def test_what_is_not_quantized_stays_16_bit_beside_quantized_layers() -> None:
    loaded = load_base(model_section(make_tiny_checkpoint("opt")), NF4, dq=False)
    for name, weight in loaded.model.named_parameters():
        if weight.dtype == torch.float32:
            assert torch.equal(weight, weight.bfloat16().float()), name


def test_layer_that_was_not_quantized_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "simulate_quantization", lambda *_, **__: None)
    with pytest.raises(ModelError, match=r"model.layers.0.self_attn.q_proj was .* and is Linear"):
        load_base(model_section(make_tiny_checkpoint("causal")), SIMULATED, dq=True)


def test_fp32_with_another_compute_type_is_refused() -> None:
    wrong = DtypeConfig("fp32", 64, "bfloat16", "none", "dynamic8", None)
    with pytest.raises(ConfigError, match="dtype=fp32 computes in float32"):
        load_base(model_section(make_tiny_checkpoint("causal")), wrong, dq=False)


def test_new_classification_head_comes_from_the_seed_and_is_on_record(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_tiny_checkpoint("roberta"), tmp_path / "headless"))
    weights = load_file(folder / "model.safetensors")
    body = {name: weight for name, weight in weights.items() if "classifier" not in name}
    save_file(body, folder / "model.safetensors", {"format": "pt"})
    model = model_section(folder, "classification")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, again, other = (load_base(model, BF16, dq=False, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    heads = [loaded.model.classifier.out_proj.weight for loaded in (one, again, other)]
    assert heads[0].shape == (3, 128)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert {n.split(".")[0] for n in one.origin["new_weights"]} == {"classifier"}


def test_classification_head_of_another_size_is_replaced_and_on_record() -> None:
    model = model_section(
        make_tiny_checkpoint("bert"), "classification"
    )  # 2 labels on disk, 3 wanted
    loaded = load_base(model, BF16, dq=False)
    assert loaded.model.classifier.weight.shape == (3, 128)
    assert loaded.model.classifier.weight.std() > 0
    assert loaded.origin["new_weights"] == ["classifier.bias", "classifier.weight"]


def test_a_head_of_another_size_that_transformers_leaves_on_a_quantized_base_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = load.AUTO_CLASSES["classification"]

    class Before523:
        """Stands in for a version that looks at no shape while it quantizes."""

        _model_mapping = real._model_mapping
        from_config = real.from_config

        @staticmethod
        def from_pretrained(*args: Any, **named: Any) -> Any:
            live, report = real.from_pretrained(*args, **named)
            live.classifier = torch.nn.Linear(128, 2)
            return live, report

    monkeypatch.setitem(load.AUTO_CLASSES, "classification", Before523)
    with pytest.raises(ModelError, match=r"has classifier.weight as \(2, 128\), .* as \(3, 128\)"):
        load_base(model_section(make_tiny_checkpoint("bert"), "classification"), NF4, dq=True)


def test_transformers_talks_again_after_a_load(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_base(model_section(make_tiny_checkpoint("causal")), NF4, dq=True)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


def test_missing_padding_token_becomes_the_end_of_sequence(mine: Path) -> None:
    settings = json.loads((mine / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (mine / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_base(model_section(mine), BF16, dq=False)
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    assert loaded.model.config.pad_token_id == loaded.tokenizer.eos_token_id
    assert loaded.origin["pad_token_was_missing"]
    kept = load_base(model_section(make_tiny_checkpoint("causal")), BF16, dq=False)
    assert kept.tokenizer.pad_token == "<pad>"
    assert not kept.origin["pad_token_was_missing"]


def test_random_model_is_read_by_the_code_for_any_folder() -> None:
    random = load_base(model_section(None, source="random"), BF16, dq=False)
    local = load_base(model_section(make_tiny_checkpoint("causal")), BF16, dq=False)
    assert random.origin["content_digest"] == local.origin["content_digest"]
    assert torch.equal(logits(random), logits(local))


def test_digest_tells_two_checkpoints_of_one_shape_apart(mine: Path) -> None:
    before = load_base(model_section(mine), BF16, dq=False).origin["content_digest"]
    weights = load_file(mine / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] += 1e-3
    save_file(weights, mine / "model.safetensors", {"format": "pt"})
    assert load_base(model_section(mine), BF16, dq=False).origin["content_digest"] != before


def test_fully_trained_model_comes_back_unrounded(tmp_path: Path) -> None:
    loaded = load_base(model_section(make_tiny_checkpoint("causal")), BF16, dq=False)
    with torch.no_grad():
        loaded.model.lm_head.weight += 1e-5
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    back = load_trained(model_section(None, source="random"), BF16, folder=tmp_path)
    assert torch.equal(logits(back), logits(loaded))
    with pytest.raises(ConfigError, match="dtype=nf4 has no fully trained model"):
        load_trained(model_section(None, source="random"), NF4, folder=tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [BF16, NF4, SIMULATED])
def test_model_goes_to_the_gpu(dtype: DtypeConfig) -> None:
    model = model_section(make_tiny_checkpoint("causal"), device="auto")
    loaded = load_base(model, dtype, dq=dtype.name == "nf4")
    assert {p.device.type for p in loaded.model.parameters()} == {"cuda"}
