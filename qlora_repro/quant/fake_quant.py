"""Round-trip a model's weights through any codebook at any block size; its linears stay plain."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.quant.blockwise import dequantize, double_quantize, quantize
from qlora_repro.quant.codebooks import code_bits, codebook

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
    matrices: int = 1  # that were quantized each by itself: the experts of a fused weight

    @property
    def code_bytes(self) -> int:
        """Return the bytes of all codes, packed."""
        return -(-self.n_codes * self.code_bits // 8)

    @property
    def scale_bytes(self) -> int:
        """Return the bytes of all constants: fp32, or 8-bit ones with fp32 ones and an offset."""
        return self.n_scales + 4 * (self.n_nested + self.matrices) if self.dq else 4 * self.n_scales


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
    errors = {}
    for name in names:
        module = model.get_submodule(name)
        weight: Tensor = module.weight  # type: ignore[assignment]
        rows = weight.T if isinstance(module, Conv1D) else weight  # (out, in)
        with _naming(name):
            read = round_trip(rows, dtype=dtype, blocksize=blocksize, dq=dq, scales=scales)
        errors[name] = _relative_error(rows, read)
        weight.copy_(read.T if isinstance(module, Conv1D) else read)
        weight.requires_grad_(False)
        state = _state(weight, dtype=dtype, blocksize=blocksize, dq=dq, scales=scales)
        module.simulated = state  # type: ignore[assignment]
    return errors


@torch.no_grad()
def simulate_experts(
    model: nn.Module,
    names: list[str],
    *,
    dtype: str,
    blocksize: int,
    dq: bool,
    scales: str = "dynamic8",
) -> dict[str, float]:
    """Round-trip the named weights, of all experts of a layer each, in place and freeze them.

    Every expert's matrix is quantized by itself as (out, in), as if it were a linear layer's. Names
    come from `expert_weights`. Each module is marked with `simulated_experts`, a SimulatedState by
    the name of its parameter. Returns relative errors as `simulate` does.
    """
    errors = {}
    for name in names:
        place, _, leaf = name.rpartition(".")
        module: Any = model.get_submodule(place)
        weight: Tensor = getattr(module, leaf)  # (E, out, in), or (E, in, out)
        rows = weight.mT if module.is_transposed else weight  # (E, out, in)
        before = rows.clone()
        with _naming(name):
            for expert in rows:
                read = round_trip(expert, dtype=dtype, blocksize=blocksize, dq=dq, scales=scales)
                expert.copy_(read)
        errors[name] = _relative_error(before, rows)
        weight.requires_grad_(False)
        states = module.__dict__.setdefault("simulated_experts", {})
        states[leaf] = _state(weight, dtype=dtype, blocksize=blocksize, dq=dq, scales=scales)
    return errors


def _state(weight: Tensor, *, dtype: str, blocksize: int, dq: bool, scales: str) -> SimulatedState:
    """Return what a weight's codes and constants take; the experts of a 3-D one count apart."""
    matrices = len(weight) if weight.dim() == 3 else 1
    n_scales = -(-weight.numel() // matrices // blocksize)  # of one matrix
    n_nested = -(-n_scales // DQ_BLOCKSIZE) if dq else 0
    return SimulatedState(
        dtype=dtype,
        blocksize=blocksize,
        dq=dq,
        scales=scales,
        n_codes=weight.numel(),
        code_bits=code_bits(codebook(dtype, blocksize=blocksize)),
        n_scales=matrices * n_scales,
        n_nested=matrices * n_nested,
        matrices=matrices,
    )


def _relative_error(weight: Tensor, read: Tensor) -> float:
    norm = weight.float().norm()
    return float((read.float() - weight.float()).norm() / norm) if norm else 0.0


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say which weight it is that cannot be quantized."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
