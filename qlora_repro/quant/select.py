"""Which of a model's layers are linear ones of its base, and which weights are quantized."""

from collections.abc import Iterable

from torch import nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.errors import ModelError


def linear_layers(model: nn.Module) -> list[str]:
    """Return the names of the base model's linear layers, quantized or not, in the model's order.

    Language-model and classification heads, which lie outside of the base model or are its output
    embedding, are left out: they are neither quantized nor adapted.
    """
    base = getattr(model, "base_model", model)
    inside = {id(module) for module in base.modules()}
    head = output_embeddings(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside and module is not head
    ]


def quantizable(model: nn.Module, *, skip: Iterable[str] = ()) -> list[str]:
    """Return the names of the linear layers to quantize, in the model's order.

    These are all `linear_layers` but those that share their weight with another module, which stay
    16-bit as in the paper, and the modules named in `skip`. Nothing else is left out, unlike
    transformers' own choice, which keeps every `wo` of T5 and quantizes half of RoBERTa's
    classification head.

    Raises ModelError for a kind of linear layer that cannot be quantized, and when there is none.
    """
    kept = _tied(model) | set(skip)
    names = [name for name in linear_layers(model) if name not in kept]
    for name in names:
        module = model.get_submodule(name)
        if type(module) not in (nn.Linear, Conv1D):
            raise ModelError(
                f"{name} is a {type(module).__name__}, and only nn.Linear is quantized"
            )
    if not names:
        raise ModelError(f"{type(model).__name__} has no linear layer to quantize")
    return names


def expert_weights(model: nn.Module) -> list[str]:
    """Return the names of the weights that hold all experts of a layer: (experts, out, in).

    transformers keeps a mixture's experts as 3-D parameters, not as linear layers, on modules that
    declare by `is_transposed` whether each expert's matrix is (in, out) instead.
    """
    return [
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if hasattr(module, "is_transposed")
        for leaf, weight in module.named_parameters(recurse=False)
        if weight.dim() == 3
    ]


def output_embeddings(model: nn.Module) -> nn.Module | None:
    """Return a language model's head; None for a model without one."""
    find = getattr(model, "get_output_embeddings", None)
    return find() if find else None


def _tied(model: nn.Module) -> set[str]:
    """Return the modules that share their weight, under whichever name the model lists it."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    return {key.removesuffix(".weight") for key in (*tied.keys(), *tied.values())}
