"""Which folder a model is read from: found or made, checked, and described for the record.

Start with `find_checkpoint`. Reading the weights is `load`'s.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer

from qlora_repro.config.schema import ModelConfig
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.model.embedded import embedded_checkpoint, read_origin
from qlora_repro.model.hub import download_checkpoint, download_tokenizer
from qlora_repro.model.library_logging import silence_transformers
from qlora_repro.model.tiny import make_tiny_checkpoint

DIGEST_PIECES = 64  # of a weight file, read for its digest
PIECE_BYTES = 1 << 16
PICKLED_SUFFIXES = (".bin", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with config.json, weights and a tokenizer."""

    folder: Path
    name: str  # what an adapter calls its base: the hub id, or the folder
    commit: str | None  # hub only
    origin: dict[str, Any]  # for the record


def find_checkpoint(model: ModelConfig) -> Checkpoint:
    """Return the checked checkpoint that a model section names; download or make it when needed.

    Raises:
        ConfigError: the section names no path.
        ModelError: it cannot be used.
    """
    return SOURCES[model.source](model)


def _hub_checkpoint(model: ModelConfig) -> Checkpoint:
    path = _required_path(model)
    folder, commit = download_checkpoint(
        path, revision=model.revision, code=model.trust_remote_code
    )
    pickled = check_weights(folder, allow_pickle=True)
    origin = {
        "revision": model.revision,
        "commit": commit,
        "weights": "pickle" if pickled else "safetensors",
    }
    return Checkpoint(folder=folder, name=path, commit=commit, origin=origin)


def _embedded_checkpoint(_: ModelConfig) -> Checkpoint:
    folder = embedded_checkpoint()
    check_weights(folder)
    origin = read_origin(folder)
    origin["converted_sha256"] = origin.pop("files")["model.safetensors"]
    return Checkpoint(folder=folder, name=str(folder), commit=None, origin=origin)


SOURCES: dict[str, Callable[[ModelConfig], Checkpoint]] = {
    "hub": _hub_checkpoint,
    "local": lambda model: folder_checkpoint(Path(_required_path(model)).expanduser()),
    "embedded": _embedded_checkpoint,
    "random": lambda model: folder_checkpoint(make_tiny_checkpoint(model.kind)),
}


def folder_checkpoint(folder: Path) -> Checkpoint:
    """Return a folder on this machine as a checkpoint, with a digest of its contents on record."""
    check_weights(folder)
    origin = {"content_digest": content_digest(folder), "weights": "safetensors"}
    return Checkpoint(folder=folder, name=str(folder), commit=None, origin=origin)


def _required_path(model: ModelConfig) -> str:
    if not model.path:
        raise ConfigError(f"model={model.name} has no model.path; write model.path=DIR or a hub id")
    return model.path


def check_weights(folder: Path, *, allow_pickle: bool = False) -> bool:
    """Refuse a folder without a complete 16-bit checkpoint; return whether its weights are pickled.

    Pickled files run code when they are read carelessly, so a user's own folder must be converted;
    from the hub they are read with torch's restricted unpickler.

    Raises:
        ModelError: something is missing, cut short, of another kind or quantized already.
    """
    if not folder.is_dir():
        raise ModelError(
            f"model.path={folder} is not a folder; it must be one with config.json, *.safetensors "
            "and a tokenizer"
        )
    _check_config(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES)
        if pickled and allow_pickle:
            return True
        if pickled:
            raise ModelError(
                f"{folder} has only pickled weights ({pickled[0].name}), which can run code when "
                "read; if you trust them, load them in transformers with use_safetensors=False and "
                "write safetensors with save_pretrained"
            )
        raise ModelError(f"{folder} has no *.safetensors file, so there are no weights to load")
    for path in weights:
        _check_safetensors(path)
    _check_shards(folder)
    return False


def _check_config(folder: Path) -> None:
    config = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json); model.path must be a whole model"
        )
    if not config.is_file():
        raise ModelError(f"{folder} has no config.json, so it is not a transformers checkpoint")
    try:
        quantized = json.loads(config.read_text()).get("quantization_config")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{config} is not readable JSON ({error})") from error
    if quantized:
        method = quantized.get("quant_method", "an unknown method")
        raise ModelError(
            f"{folder} is already quantized by {method}; a 16-bit checkpoint is needed"
        )


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is corrupted or cut short ({error}); fetch it again") from error


def _check_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of weight files ({error!r})") from error
    for name in sorted(shards):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}, which its index names; fetch it again")


def content_digest(folder: Path) -> str:
    """Return a sha256 that tells two checkpoints apart without reading all of them.

    It covers config.json in full and of each weight file the name, the size, the first 64 KiB
    (where the header with names, types and shapes begins) and 63 more pieces of 64 KiB, evenly
    spaced: at most 4 MiB a file, and weights that were tuned anywhere in most layers differ.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for piece in range(DIGEST_PIECES):
                file.seek(max(size - PIECE_BYTES, 0) * piece // (DIGEST_PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def load_tokenizer_and_config(model: ModelConfig) -> tuple[Any, Any]:
    """Return (tokenizer, configuration), before any weights are read.

    Raises:
        ModelError: they cannot be read.
    """
    trust = model.trust_remote_code
    if model.source == "hub" and model.path:
        folder = download_tokenizer(model.path, revision=model.revision, code=trust)
    else:
        folder = find_checkpoint(model).folder
    try:
        with silence_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            return tokenizer, AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(
            f"{model.path or model.name}: its tokenizer or configuration cannot be read "
            f"({' '.join(str(error).split())[:200]}); a whole checkpoint is needed"
        ) from error
