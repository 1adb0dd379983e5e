"""The architecture of any model from its configuration: built on the meta device, no weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from qlora_repro.config.schema import ModelConfig
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.lora.adapter import sites
from qlora_repro.lora.targets import layer_number, role_of
from qlora_repro.memory.architecture import Architecture, Linear
from qlora_repro.model.checkpoint import find
from qlora_repro.model.hub import hub_description
from qlora_repro.model.library_logging import quiet
from qlora_repro.model.load import KINDS
from qlora_repro.quant.linear_layers import linear_layers


def from_checkpoint(
    model: ModelConfig, target: str, *, layers: list[int] | None
) -> tuple[Architecture, tuple[Linear, ...]]:
    """Return the architecture and the adapted layers, named as in the model; reads no weights.

    Raises ModelError where config.json is not at hand, ConfigError for a placement that matches
    nothing.
    """
    empty = _empty(model)
    found = of_model(empty)
    if target == "none":
        return found, ()
    chosen = sites(empty, target, layers=layers)
    return found, tuple(linear for linear in found.linears if linear.name in chosen)


def of_model(model: Any) -> Architecture:
    """Read the sizes off a model, on the meta device or live."""
    linears = [_linear(model, name) for name in linear_layers(model)]
    body, head = model.get_input_embeddings(), model.get_output_embeddings()
    inside = {f"{linear.name}.weight" for linear in linears}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    own = {id(head.weight)} - embeddings if head is not None else set()  # not where it is tied
    sizes = {"embedding": 0, "head": 0, "vectors": 0}
    for name, weight in model.named_parameters():  # a tied weight comes once
        if name in inside:
            continue
        role = "embedding" if id(weight) in embeddings else "head" if id(weight) in own else None
        sizes[role or "vectors"] += weight.numel()
    return Architecture(
        linears=tuple(linears),
        **sizes,
        hidden=model.config.hidden_size,
        heads=model.config.num_attention_heads,
        vocab=model.config.num_labels if head is None else body.weight.shape[0],
    )


def _linear(model: Any, name: str) -> Linear:
    module = model.get_submodule(name)
    plain = isinstance(module, torch.nn.Linear)  # a Conv1D holds (in, out)
    n_out, n_in = module.weight.shape if plain else module.weight.shape[::-1]
    role = role_of(model.config.model_type, name) or "other"
    return Linear(name=name, layer=layer_number(name), role=role, n_in=n_in, n_out=n_out)


def _empty(model: ModelConfig) -> Any:
    """Return the model on the meta device, from `model.config` or from its config.json."""
    code = {"trust_remote_code": model.trust_remote_code}
    labels = {"num_labels": model.num_labels} if model.kind == "classification" else {}
    try:
        with quiet():
            config = _config(model, **code, **labels)
            with torch.device("meta"):
                return KINDS[model.kind].from_config(config, **code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{model.path or model.name}: planning needs its config.json, which cannot be read "
            f"({' '.join(str(error).split())[:200]}); a whole checkpoint is needed"
        ) from error


def _config(model: ModelConfig, **known: Any) -> Any:
    if model.config is None:
        return AutoConfig.from_pretrained(_folder(model), **known)
    sizes = {name: value for name, value in model.config.items() if name != "model_type"}
    return AutoConfig.for_model(model.config["model_type"], **sizes, **known)


def _folder(model: ModelConfig) -> Path:
    """Return a folder with the model's config.json, weights or not."""
    if model.source not in ("hub", "local"):
        return find(model).folder
    if not model.path:
        raise ConfigError(f"model={model.name} has no model.path; write model.path=DIR or a hub id")
    if model.source == "local":
        return Path(model.path).expanduser()
    return hub_description(model.path, revision=model.revision, code=model.trust_remote_code)
