"""What precision a live model's weights have and what they take; rounding what stays 16-bit."""

from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import nn

from qlora_repro.config.schema import DtypeConfig
from qlora_repro.errors import ModelError

LACK = ("out of memory", "can't allocate memory", "Cannot allocate memory")


@torch.no_grad()
def round_to_bf16(model: nn.Module, *, skip: list[str]) -> int:
    """Round float32 weights to bf16 values in place, held in float32; return how many values moved.

    `skip` names the modules whose weight is quantized, and single weights that are; biases are
    rounded like the rest.
    """
    kept = {*skip, *(f"{name}.weight" for name in skip)}
    moved = 0
    for name, weight in model.named_parameters():
        if name not in kept and weight.dtype == torch.float32:
            rounded = weight.to(torch.bfloat16).float()
            moved += int((rounded != weight).sum())
            weight.copy_(rounded)
    return moved


def check_quantized(model: nn.Module, names: list[str], *, dtype: DtypeConfig, dq: bool) -> None:
    """Compare the live layers with what was asked; raises ModelError naming the first to differ."""
    wanted: tuple[str, int | None, bool] = (dtype.name, dtype.blocksize, dq)
    if dtype.name == "int8" and dtype.backend == "bnb":
        wanted = ("int8", None, False)  # one scale a row
    for name in names:
        module = model.get_submodule(name)
        found = held_as(module)
        if found != wanted:
            raise ModelError(
                f"{name} was to be held as {wanted} (type, block size, double quantization) and is "
                f"{found or type(module).__name__}"
            )


def held_as(module: Any) -> tuple[str, int | None, bool] | None:
    """Return (type, block size, double quantization) of a layer's weight; None: not quantized."""
    if isinstance(module, Linear4bit):
        weight: Any = module.weight
        state = weight.quant_state
        return None if state is None else (state.quant_type, state.blocksize, bool(state.nested))
    if isinstance(module, Linear8bitLt):
        return ("int8", None, False) if module.weight.dtype == torch.int8 else None
    state = getattr(module, "simulated", None)
    return None if state is None else (state.dtype, state.blocksize, state.dq)


def weight_bytes(model: nn.Module, names: list[str], *, dtype: DtypeConfig) -> int:
    """Return what a model's weights take; `names` are those that backend=bnb would quantize."""
    kept = torch.finfo(getattr(torch, dtype.compute_dtype)).bits
    bits = {"int8": 8.0}.get(dtype.name, 4 + 32 / dtype.blocksize)  # codes, a float32 scale a block
    quantized = {f"{name}.weight" for name in names} if dtype.backend == "bnb" else set()
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    return int(sum(n * (bits if name in quantized else kept) for name, n in sizes.items()) / 8)


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return named or any(word in str(error) for word in LACK)
