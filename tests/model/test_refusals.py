"""Checkpoints and settings that cannot be used: each one clear sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from model_sections import model_section
from safetensors.torch import load_file, save_file

from qlora_repro.config.schema import DtypeConfig
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.model.load import load_base
from qlora_repro.model.tiny import make_tiny_checkpoint

BF16 = DtypeConfig("bf16", 64, "float32", "none", "dynamic8", None)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A copy of the tiny causal checkpoint that a test may damage."""
    return Path(shutil.copytree(make_tiny_checkpoint("causal"), tmp_path / "mine"))


def loads(path: Path | None, **changes: Any) -> None:
    load_base(model_section(path, **({"num_labels": None} | changes)), BF16, dq=False)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA is there")
@pytest.mark.parametrize("device", ["cuda", "spread"])
def test_cuda_that_is_not_there(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.device={device} .*; use model.device=cpu"):
        loads(None, source="random", device=device)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "classification"}, "model.num_labels is None, and must be at least 1"),
        ({}, "model=mine has no model.path"),
    ],
)
def test_setting_that_cannot_be(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        loads(None, **changes)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.path=.*nowhere is not a folder; it must be one"):
        loads(tmp_path / "nowhere")


def test_folder_without_a_configuration(mine: Path) -> None:
    (mine / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json"):
        loads(mine)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_configuration_that_is_not_json(mine: Path, text: str) -> None:
    (mine / "config.json").write_text(text)
    with pytest.raises(ModelError, match="is not readable JSON"):
        loads(mine)


def test_architecture_that_transformers_does_not_know(mine: Path) -> None:
    edit(mine / "config.json", model_type="abacus")
    with pytest.raises(ModelError, match=r"its configuration cannot be read .*abacus"):
        loads(mine)


def test_adapter_in_place_of_a_model(mine: Path) -> None:
    (mine / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter .*must be a whole model"):
        loads(mine)


def test_checkpoint_that_is_quantized_already(mine: Path) -> None:
    edit(mine / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="already quantized by gptq"):
        loads(mine)


def test_folder_without_weights(mine: Path) -> None:
    (mine / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*.safetensors file"):
        loads(mine)


def test_folder_with_pickled_weights_alone(mine: Path) -> None:
    torch.save(load_file(mine / "model.safetensors"), mine / "pytorch_model.bin")
    (mine / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\).*can run"):
        loads(mine)


@pytest.mark.parametrize("keep", [0, 4, 100, 100_000])
def test_weights_that_are_cut_short(mine: Path, keep: int) -> None:
    weights = mine / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model.safetensors is corrupted or cut short"):
        loads(mine)


def test_weights_whose_header_is_garbage(mine: Path) -> None:
    weights = mine / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[8:40] = bytes(32)
    weights.write_bytes(data)
    with pytest.raises(ModelError, match="is corrupted or cut short"):
        loads(mine)


def test_shard_that_is_missing(mine: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (mine / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model-2.safetensors"):
        loads(mine)


def test_weight_that_is_missing_is_not_drawn_at_random(mine: Path) -> None:
    weights = load_file(mine / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, mine / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of .*model.layers.1.mlp.up_proj.weight"):
        loads(mine)


def test_weight_of_another_shape(mine: Path) -> None:
    edit(mine / "config.json", intermediate_size=320)
    with pytest.raises(ModelError, match=r"lacks 6 of .*, or has them in another shape"):
        loads(mine)


@pytest.mark.parametrize(
    ("family", "kind", "would"),
    [("t5", "causal", "seq2seq"), ("llama", "seq2seq", "causal or classification")],
)
def test_kind_that_does_not_fit(family: str, kind: str, would: str) -> None:
    with pytest.raises(ModelError, match=rf"model.kind={kind} does not fit it; {would}"):
        loads(make_tiny_checkpoint(family), kind=kind)


def test_masked_language_model_does_not_pass_for_a_causal_one(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_tiny_checkpoint("roberta"), tmp_path / "masked"))
    edit(folder / "config.json", architectures=["RobertaForMaskedLM"])
    with pytest.raises(ModelError, match="does not fit it; classification would"):
        loads(folder)


def test_code_in_a_checkpoint_runs_only_when_trusted(mine: Path) -> None:
    edit(mine / "config.json", model_type="mine", auto_map={"AutoConfig": "code.Mine"})
    (mine / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match=r"own Python code; .*model.trust_remote_code=true"):
        loads(mine)


def test_tokenizer_that_is_missing(mine: Path) -> None:
    (mine / "tokenizer.json").unlink()
    (mine / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="its tokenizer cannot be read"):
        loads(mine)


def test_tokenizer_with_more_tokens_than_the_model(mine: Path) -> None:
    core = json.loads((mine / "tokenizer.json").read_text())
    core["added_tokens"].append(core["added_tokens"][0] | {"id": 600, "content": "<more>"})
    (mine / "tokenizer.json").write_text(json.dumps(core))
    with pytest.raises(ModelError, match="the tokenizer has 513 tokens and the model only 512"):
        loads(mine)
