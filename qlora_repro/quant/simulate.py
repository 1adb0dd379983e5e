"""Round-trip a model's weights through any codebook at any block size; its linears stay plain."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.quant.blockwise import dequantize, double_quantize, quantize
from qlora_repro.quant.codebook import code_bits, codebook

DQ_BLOCKSIZE = 256  # QLoRA, Section 3


@dataclass(frozen=True)
class SimulatedState:
    """What a simulated module's codes and scales would take; memory holds its 16-bit weight."""

    dtype: str
    blocksize: int
    dq: bool
    scales: str  # the 8-bit type of double-quantized constants; unused without
    n_codes: int  # one per weight
    code_bits: int  # of one packed code
    n_scales: int  # absmax, one per block
    n_nested: int  # second-level absmax; 0 without double quantization

    @property
    def code_bytes(self) -> int:
        """Return the bytes of all codes, packed."""
        return -(-self.n_codes * self.code_bits // 8)

    @property
    def scale_bytes(self) -> int:
        """Return the bytes of all constants: fp32, or 8-bit ones with fp32 ones and an offset."""
        return self.n_scales + 4 * (self.n_nested + 1) if self.dq else 4 * self.n_scales


def round_trip(
    weight: Tensor, *, dtype: str, blocksize: int, dq: bool, scales: str = "dynamic8"
) -> Tensor:
    """Return a weight as it reads after quantization: same shape and torch dtype.

    `scales` is the 8-bit type that double quantization keeps the constants in, "dynamic8" as in the
    released code or "fp8_e4m3" as in the paper's text.

    Raises ValueError for NaN or infinite weights, ConfigError for a type without levels.
    """
    book = codebook(dtype, blocksize=blocksize)
    q = quantize(weight, book, blocksize=blocksize)
    if dq:
        twice = double_quantize(q.absmax, blocksize=DQ_BLOCKSIZE, code=scales)
        q = replace(q, absmax=twice.dequantize())
    return dequantize(q, book)


@torch.no_grad()
def simulate(
    model: nn.Module,
    names: list[str],
    *,
    dtype: str,
    blocksize: int,
    dq: bool,
    scales: str = "dynamic8",
) -> dict[str, float]:
    """Round-trip the weights of the named linear layers in place and freeze them.

    A transformers Conv1D keeps its weight as (in, out); it is quantized as (out, in), the way
    bitsandbytes gets it. Each module is marked with `simulated`, a SimulatedState. Returns the
    relative error of each weight: the norm of the change over the norm of the weight.
    """
    bits = code_bits(codebook(dtype, blocksize=blocksize))
    errors = {}
    for name in names:
        module = model.get_submodule(name)
        weight: Tensor = module.weight  # type: ignore[assignment]
        rows = weight.T if isinstance(module, Conv1D) else weight  # (out, in)
        try:
            read = round_trip(rows, dtype=dtype, blocksize=blocksize, dq=dq, scales=scales)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        norm = rows.float().norm()
        errors[name] = float((read.float() - rows.float()).norm() / norm) if norm else 0.0
        weight.copy_(read.T if isinstance(module, Conv1D) else read)
        weight.requires_grad_(False)
        n_scales = -(-weight.numel() // blocksize)
        n_nested = -(-n_scales // DQ_BLOCKSIZE) if dq else 0
        counts = (weight.numel(), bits, n_scales, n_nested)
        state = SimulatedState(dtype, blocksize, dq, scales, *counts)
        module.simulated = state  # type: ignore[assignment]
    return errors
