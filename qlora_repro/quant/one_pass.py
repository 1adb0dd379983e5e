"""Dequantizing NF4 with double quantization in one pass over a GPU's memory.

bitsandbytes takes three kernels, which write and read the constants in between: first the constants
of the constants, then their mean, then the weights (Equation 6 of the paper). In one kernel of
Triton it takes two thirds of the time. Each product and sum is rounded as there, none fused with
the next, so the weights are the same to the bit.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

BYTES, WARPS = 2048, 8  # that one program reads, and its warps: the fastest of six on an H200

if find_spec("triton") is not None:  # it comes with torch for CUDA
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def _dequantize(  # type: ignore[no-untyped-def]  # noqa: PLR0913
        packed,
        weight,
        codebook,
        absmax_codes,
        absmax_codebook,
        absmax_scales,
        absmax_mean,
        n_weights,
        blocksize: tl.constexpr,
        absmax_blocksize: tl.constexpr,
        n_bytes: tl.constexpr,
    ):
        """Write the weights of `n_bytes` packed bytes: two a byte, the first in its high half."""
        start = tl.program_id(0).to(tl.int64) * n_bytes
        byte_index = start + tl.arange(0, n_bytes)
        inside = byte_index * 2 < n_weights
        codes = tl.load(packed + byte_index, mask=inside, other=0)
        block = (byte_index * 2) // blocksize
        scale_code = tl.load(absmax_codes + block, mask=inside, other=0).to(tl.int32)
        scale = tl.load(absmax_scales + block // absmax_blocksize, mask=inside, other=0.0)
        absmax = tl.load(absmax_codebook + scale_code) * scale + tl.load(absmax_mean)
        first = tl.load(codebook + (codes >> 4).to(tl.int32)) * absmax
        second = tl.load(codebook + (codes & 15).to(tl.int32)) * absmax
        targets = start * 2 + tl.arange(0, n_bytes * 2)
        values = tl.interleave(first, second).to(weight.dtype.element_ty)
        tl.store(weight + targets, values, mask=targets < n_weights)
else:
    triton = None


def fits_one_pass(packed: Tensor, state: Any) -> bool:
    """Whether a weight of bitsandbytes is NF4 with DQ, on a GPU where Triton is."""
    return packed.is_cuda and triton is not None and state.nested and state.quant_type == "nf4"


def dequantize_in_one_pass(packed: Tensor, state: Any) -> Tensor:
    """Return the weight (out, in) that bitsandbytes packed, in the dtype of its state.

    Args:
        packed: The codes, two a byte, in any dtype that they are viewed as.
        state: bitsandbytes' QuantState, of NF4 with double quantization.
    """
    weight = torch.empty(state.shape, dtype=state.dtype, device=packed.device)
    codes = packed.view(-1).view(torch.uint8)
    with torch.cuda.device(packed.device):
        _dequantize[(triton.cdiv(codes.numel(), BYTES),)](
            codes,
            weight,
            state.code,
            state.absmax,
            state.state2.code,
            state.state2.absmax,
            state.offset,
            weight.numel(),
            state.blocksize,
            state.state2.blocksize,
            BYTES,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return weight
