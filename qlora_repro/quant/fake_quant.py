"""Round-trip a model's weights through any codebook at any block size; its layers stay plain."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.quant.blockwise import dequantize, double_quantize, quantize
from qlora_repro.quant.codebooks import count_code_bits, make_codebook
from qlora_repro.quant.storage import FLOAT32, LayerKind, QuantizedLayer

DQ_BLOCKSIZE = 256  # QLoRA, Section 3


def round_trip(
    weight: Tensor, *, dtype: str, blocksize: int, dq: bool, scales: str = "dynamic8"
) -> Tensor:
    """Return a weight as it reads after quantization: same shape and torch dtype.

    Args:
        weight: of any shape.
        dtype: a type that `make_codebook` knows.
        blocksize: weights that share a scale.
        dq: whether the scales are quantized as well (QLoRA, Section 3).
        scales: the 8-bit type of quantized scales, "dynamic8" as in the released code or
            "fp8_e4m3" as in the paper's text.

    Raises:
        ValueError: weights are NaN or infinite.
        ConfigError: a type has no levels.
    """
    book = make_codebook(dtype, blocksize=blocksize)
    q = quantize(weight, book, blocksize=blocksize)
    if dq:
        constants = double_quantize(q.absmax, blocksize=DQ_BLOCKSIZE, code=scales)
        q = replace(q, absmax=constants.dequantize())
    return dequantize(q, book)


@torch.no_grad()
def simulate_quantization(
    model: nn.Module,
    names: list[str],
    *,
    dtype: str,
    blocksize: int,
    dq: bool,
    scales: str = "dynamic8",
) -> None:
    """Round-trip weights in place and freeze them; `measure_storage` counts what they would take.

    A name is a linear layer's (`find_quantizable_layers`) or that of a 3-D weight of all experts of
    a layer (`find_expert_weights`), whose matrices are quantized one by one. A matrix is quantized
    as (out, in), the way bitsandbytes gets it, also where it is kept as (in, out), as in a Conv1D.
    The other arguments and errors are those of `round_trip`.
    """
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(layer := getattr(module, leaf), nn.Module):
            module, leaf = layer, "weight"
        weight = module.get_parameter(leaf)  # (out, in) or (E, out, in), or transposed
        transposed = isinstance(module, Conv1D) or getattr(module, "is_transposed", False)
        rows = weight.mT if transposed else weight
        try:
            for matrix in rows if rows.dim() == 3 else [rows]:
                matrix.copy_(
                    round_trip(matrix, dtype=dtype, blocksize=blocksize, dq=dq, scales=scales)
                )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        weight.requires_grad_(False)
        layer_storage = _count_storage(weight, dtype, blocksize, scales if dq else None)
        module.__dict__.setdefault("simulated", {})[leaf] = layer_storage


def _count_storage(
    weight: Tensor, dtype: str, blocksize: int, scales: str | None
) -> QuantizedLayer:
    """Return what a weight's codes and constants would take; `scales` is None without dq."""
    experts = weight.dim() == 3
    matrices = len(weight) if experts else 1
    n_scales = -(-weight.numel() // matrices // blocksize)  # of one matrix
    dq_bytes = n_scales + 4 * (-(-n_scales // DQ_BLOCKSIZE) + 1)  # 8-bit, float32 and an offset
    code_bits = count_code_bits(make_codebook(dtype, blocksize=blocksize))
    return QuantizedLayer(
        kind=LayerKind.EXPERTS if experts else LayerKind.SIMULATED,
        dtype=dtype,
        params=weight.numel(),
        code_bytes=-(-weight.numel() * code_bits // 8),
        scale_bytes=matrices * (dq_bytes if scales else 4 * n_scales),
        blocksize=blocksize,
        nested=scales is not None,
        scales=scales or FLOAT32,
    )
