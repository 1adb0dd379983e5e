"""Which of a model's layers are linear ones of its base, and which weights are quantized."""

from collections.abc import Iterable

from torch import nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.errors import ModelError


def find_linear_layers(model: nn.Module) -> list[str]:
    """Return the names of the base model's linear layers, quantized or not, in the model's order.

    Language-model and classification heads, which are outside of the base model or are its output
    embedding, are left out: they are neither quantized nor adapted.
    """
    base = getattr(model, "base_model", model)
    inside = {id(module) for module in base.modules()}
    head = find_output_head(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside and module is not head
    ]


def find_quantizable_layers(model: nn.Module, *, skip: Iterable[str] = ()) -> list[str]:
    """Return the names of the linear layers to quantize, in the model's order.

    These are all of `find_linear_layers` but the modules that share their weight with another,
    which stay 16-bit as in the paper, and those named in `skip`. Nothing else is left out, unlike
    transformers' own choice, which keeps every `wo` of T5 and quantizes half of RoBERTa's
    classification head.

    Raises:
        ModelError: a linear layer is of a kind that cannot be quantized, or there is none.
    """
    left_out = _tied_modules(model) | set(skip)
    names = [name for name in find_linear_layers(model) if name not in left_out]
    for name in names:
        module = model.get_submodule(name)
        if type(module) not in (nn.Linear, Conv1D):
            raise ModelError(
                f"{name} is a {type(module).__name__}, and only nn.Linear is quantized"
            )
    if not names:
        raise ModelError(f"{type(model).__name__} has no linear layer to quantize")
    return names


def find_expert_weights(model: nn.Module) -> list[str]:
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


def find_output_head(model: nn.Module) -> nn.Module | None:
    """Return a language model's head; None for a model without one."""
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if getter else None


def _tied_modules(model: nn.Module) -> set[str]:
    """Return the modules that share their weight, under whichever name the model lists it."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    return {key.removesuffix(".weight") for key in (*tied.keys(), *tied.values())}
