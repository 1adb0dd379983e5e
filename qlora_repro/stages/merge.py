"""Merge the adapter into a 16-bit copy of the dequantized base; say how far the logits moved."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.console import say
from qlora_repro.model.library_logging import silence_transformers
from qlora_repro.quant.bitsandbytes import dequantize_weight
from qlora_repro.session import ModelSession
from qlora_repro.store.cell import MERGED
from qlora_repro.train.checkpoint import save_atomically

PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Question: What is 12 plus 30?\nAnswer:",
    "A list of three European capitals: Paris, Rome and",
)


@dataclass(frozen=True, kw_only=True)
class LogitShift:
    """How far a merged model is from the adapter on its quantized base, on a few probe texts."""

    largest: float  # of |logit difference|
    mean: float
    same_top: float  # share of positions with the same likeliest token, [0, 1]


def merge_weights(model: Any, like: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a plain model: W = dequantized base + scale * B A, in float32 sums.

    `model` is a PeftModel, `like` an empty model of its base architecture. QLoRA's adapter belongs
    to the dequantized weights, so these are merged and not the checkpoint's own.
    """
    adapted = model.get_base_model()
    state = {}
    for name, want in like.state_dict().items():
        parent, _, leaf = name.rpartition(".")
        module = adapted.get_submodule(parent)
        if hasattr(module, "modules_to_save"):
            module = module.modules_to_save[module.active_adapters[0]]
        tensor = _merged_weight(module) if leaf == "weight" else getattr(_base_layer(module), leaf)
        if leaf == "weight" and isinstance(like.get_submodule(parent), Conv1D):
            tensor = tensor.T  # (in, out)
        state[name] = tensor.detach().to("cpu", want.dtype).contiguous()
    return state


def _base_layer(module: Any) -> Any:
    return getattr(module, "base_layer", module)


def _merged_weight(module: Any) -> Tensor:
    inner = _base_layer(module)
    if not isinstance(inner, nn.Linear | Conv1D):
        return inner.weight  # type: ignore[no-any-return]
    weight = dequantize_weight(inner).float()
    if inner is module:
        return weight
    for adapter in module.active_adapters:
        delta = module.get_delta_weight(adapter).float()
        weight = weight + (delta.T if module.fan_in_fan_out else delta)
    return weight


def measure_logit_shift(model: Any, merged: nn.Module, tokenizer: Any) -> LogitShift:
    """Compare logits on the probe texts. V = vocabulary, T = positions of all texts."""
    differences, same = [], []
    for text in PROBE_TEXTS:
        read = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            ours = model(**read.to(model.device)).logits[0].float().cpu()  # (T, V)
            theirs = merged(**read.to("cpu")).logits[0].float()  # (T, V)
        differences.append((ours - theirs).abs().flatten())
        same.append(ours.argmax(-1) == theirs.argmax(-1))
    difference, agree = torch.cat(differences), torch.cat(same)
    return LogitShift(
        largest=difference.max().item(),
        mean=difference.mean().item(),
        same_top=agree.float().mean().item(),
    )


def run_merge(session: ModelSession, check_held: Callable[[], object] = bool) -> Path:
    """Write the merged 16-bit model beside the adapter; return its folder and say what it cost."""
    loaded = session.tuned()
    model, folder = loaded.model, session.folder / MERGED
    model.eval()
    base = model.get_base_model()
    config = type(base.config).from_dict(base.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    # not .to(bfloat16), which rounds the frequencies of the position encoding as well
    merged = type(base)._from_config(config, dtype=torch.bfloat16).eval()
    merged.load_state_dict(merge_weights(model, merged))
    merged.tie_weights()

    def save(target: Path) -> None:
        merged.save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)

    with silence_transformers():
        save_atomically(save, folder, check_held)
    message = f"merged 16-bit model: {folder}"
    if not base.config.is_encoder_decoder and base.get_output_embeddings() is not None:
        shift = measure_logit_shift(model, merged, loaded.tokenizer)
        message += (
            f"; against the adapter on its quantized base, logits moved by {shift.mean:.4f} on "
            f"average and {shift.largest:.4f} at most, and the likeliest token is the same at "
            f"{shift.same_top:.1%} of the probe's positions"
        )
    say(message)
    return folder
