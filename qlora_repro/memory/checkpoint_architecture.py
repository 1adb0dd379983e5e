"""The architecture of any model from its configuration: built on the meta device, no weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from qlora_repro.config.schema import ModelConfig
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.lora.adapter import find_lora_targets
from qlora_repro.lora.targets import layer_number, role_of
from qlora_repro.memory.architecture import Architecture, LinearLayer
from qlora_repro.model.checkpoint import find_checkpoint
from qlora_repro.model.hub import download_config
from qlora_repro.model.library_logging import silence_transformers
from qlora_repro.model.load import AUTO_CLASSES
from qlora_repro.quant.linear_layers import find_linear_layers


def read_checkpoint_architecture(
    model: ModelConfig, target: str, *, layers: list[int] | None
) -> tuple[Architecture, tuple[LinearLayer, ...]]:
    """Return the architecture and the adapted layers, named as in the model; reads no weights.

    Raises:
        ModelError: config.json cannot be read.
        ConfigError: The placement matches nothing.
    """
    empty = _load_empty(model)
    sizes = read_model_architecture(empty)
    if target == "none":
        return sizes, ()
    chosen = find_lora_targets(empty, target, layers=layers)
    return sizes, tuple(linear for linear in sizes.linears if linear.name in chosen)


def read_model_architecture(model: Any) -> Architecture:
    """Read the sizes off a model, on the meta device or live."""
    linears = [_read_layer(model, name) for name in find_linear_layers(model)]
    body, head = model.get_input_embeddings(), model.get_output_embeddings()
    inside = {f"{linear.name}.weight" for linear in linears}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    untied = {id(head.weight)} - embeddings if head is not None else set()
    sizes = {"embedding": 0, "head": 0, "vectors": 0}
    for name, weight in model.named_parameters():  # a tied weight comes once
        if name in inside:
            continue
        role = "embedding" if id(weight) in embeddings else "head" if id(weight) in untied else None
        sizes[role or "vectors"] += weight.numel()
    return Architecture(
        linears=tuple(linears),
        **sizes,
        hidden=model.config.hidden_size,
        heads=model.config.num_attention_heads,
        vocab=model.config.num_labels if head is None else body.weight.shape[0],
    )


def _read_layer(model: Any, name: str) -> LinearLayer:
    module = model.get_submodule(name)
    plain = isinstance(module, torch.nn.Linear)  # a Conv1D holds (in, out)
    n_out, n_in = module.weight.shape if plain else module.weight.shape[::-1]
    role = role_of(model.config.model_type, name) or "other"
    return LinearLayer(name=name, layer=layer_number(name), role=role, n_in=n_in, n_out=n_out)


def _load_empty(model: ModelConfig) -> Any:
    """Return the model on the meta device, from `model.config` or from its config.json."""
    code = {"trust_remote_code": model.trust_remote_code}
    labels = {"num_labels": model.num_labels} if model.kind == "classification" else {}
    try:
        with silence_transformers():
            config = _load_config(model, **code, **labels)
            with torch.device("meta"):
                return AUTO_CLASSES[model.kind].from_config(config, **code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{model.path or model.name}: planning needs its config.json, which cannot be read "
            f"({' '.join(str(error).split())[:200]}); a whole checkpoint is needed"
        ) from error


def _load_config(model: ModelConfig, **known: Any) -> Any:
    if model.config is None:
        return AutoConfig.from_pretrained(_config_folder(model), **known)
    sizes = {name: value for name, value in model.config.items() if name != "model_type"}
    return AutoConfig.for_model(model.config["model_type"], **sizes, **known)


def _config_folder(model: ModelConfig) -> Path:
    """Return a folder with the model's config.json, weights or not."""
    if model.source not in ("hub", "local"):
        return find_checkpoint(model).folder
    if not model.path:
        raise ConfigError(f"model={model.name} has no model.path; write model.path=DIR or a hub id")
    if model.source == "local":
        return Path(model.path).expanduser()
    return download_config(model.path, revision=model.revision, code=model.trust_remote_code)
