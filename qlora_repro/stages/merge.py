"""Merge the adapter into a 16-bit copy of the dequantized base; say how far the logits moved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.console import say
from qlora_repro.model.library_logging import quiet
from qlora_repro.quant.bitsandbytes import dequantized_weight
from qlora_repro.session import Live
from qlora_repro.store.cell import MERGED
from qlora_repro.train.checkpoint import publish

PROBE = (
    "The quick brown fox jumps over the lazy dog.",
    "Question: What is 12 plus 30?\nAnswer:",
    "A list of three European capitals: Paris, Rome and",
)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far a merged model is from the adapter on its quantized base, on a few probe texts."""

    largest: float  # of |logit difference|
    mean: float
    same_top: float  # share of positions with the same likeliest token, [0, 1]


def merged_weights(model: Any, like: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a plain model: W = dequantized base + scale * B A, in float32 sums.

    `model` is a PeftModel, `like` an empty model of its base architecture. QLoRA's adapter belongs
    to the dequantized weights, so these are merged and not the checkpoint's own.
    """
    live = model.get_base_model()
    state = {}
    for name, want in like.state_dict().items():
        parent, _, leaf = name.rpartition(".")
        module = live.get_submodule(parent)
        if hasattr(module, "modules_to_save"):
            module = module.modules_to_save[module.active_adapters[0]]
        found = _weight(module) if leaf == "weight" else getattr(_inner(module), leaf)
        if leaf == "weight" and isinstance(like.get_submodule(parent), Conv1D):
            found = found.T  # (in, out)
        state[name] = found.detach().to("cpu", want.dtype).contiguous()
    return state


def _inner(module: Any) -> Any:
    return getattr(module, "base_layer", module)


def _weight(module: Any) -> Tensor:
    inner = _inner(module)
    if not isinstance(inner, nn.Linear | Conv1D):
        return inner.weight  # type: ignore[no-any-return]
    weight = dequantized_weight(inner).float()
    if inner is module:
        return weight
    for adapter in module.active_adapters:
        delta = module.get_delta_weight(adapter).float()
        weight = weight + (delta.T if module.fan_in_fan_out else delta)
    return weight


def moved(model: Any, merged: nn.Module, tokenizer: Any) -> Moved:
    """Compare logits on the probe texts. V = vocabulary, T = positions of all texts."""
    differences, same = [], []
    for text in PROBE:
        read = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            ours = model(**read.to(model.device)).logits[0].float().cpu()  # (T, V)
            theirs = merged(**read.to("cpu")).logits[0].float()  # (T, V)
        differences.append((ours - theirs).abs().flatten())
        same.append(ours.argmax(-1) == theirs.argmax(-1))
    difference, agree = torch.cat(differences), torch.cat(same)
    return Moved(
        largest=difference.max().item(),
        mean=difference.mean().item(),
        same_top=agree.float().mean().item(),
    )


def merge(live: Live) -> Path:
    """Write the merged 16-bit model beside the adapter; return its folder and say what it cost."""
    loaded = live.tuned()
    model, folder = loaded.model, live.folder / MERGED
    model.eval()
    inner = model.get_base_model()
    config = type(inner.config).from_dict(inner.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    # not .to(bfloat16), which rounds the frequencies of the position encoding as well
    merged = type(inner)._from_config(config, dtype=torch.bfloat16).eval()
    merged.load_state_dict(merged_weights(model, merged))
    merged.tie_weights()

    def save(target: Path) -> None:
        merged.save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)

    with quiet():
        publish(save, folder)
    if inner.config.is_encoder_decoder or inner.get_output_embeddings() is None:
        say(f"merged 16-bit model: {folder}")
        return folder
    shift = moved(model, merged, loaded.tokenizer)
    say(
        f"merged 16-bit model: {folder}; against the adapter on its quantized base, logits moved "
        f"by {shift.mean:.4f} on average and {shift.largest:.4f} at most, and the likeliest token "
        f"is the same at {shift.same_top:.1%} of the probe's positions"
    )
    return folder
