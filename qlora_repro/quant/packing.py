"""4-bit codes two to a byte, in the byte layout of bitsandbytes."""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from qlora_repro.quant.blockwise import Blockwise, dequantize, times_absmax

# bitsandbytes numbers FP4's levels by their bits (sign, then magnitude), and not by their size
ORDERS = {"fp4": (11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3)}


def pack(codes: Tensor, *, dtype: str) -> Tensor:
    """Return (N,) uint8 codes below 16 as (ceil(N/2),) uint8, the first of two in the high bits.

    `dtype` decides which number stands for a level: in fp4 it is bitsandbytes' own, otherwise the
    place among the ascending levels. An odd last code is followed by the one of bitsandbytes'
    padding, which no one reads: the code of zero.

    Raises ValueError for a code above 15.
    """
    if codes.numel() and int(codes.max()) > 15:
        raise ValueError(f"a code is {int(codes.max())}, and must be at most 15 to take 4 bits")
    if dtype in ORDERS:
        codes = _table(dtype).to(codes.device).index_select(0, codes.int())
    if codes.numel() % 2:
        codes = torch.cat([codes, codes.new_tensor([_zero(dtype)])])
    return codes[::2] << 4 | codes[1::2]


def unpack(packed: Tensor, *, n: int, dtype: str) -> Tensor:
    """Return the first n codes of what `pack` returned: (n,) uint8.

    Raises ValueError when there are not that many.
    """
    flat = packed.reshape(-1)
    if (n + 1) // 2 != flat.numel():
        raise ValueError(
            f"{flat.numel()} bytes hold {2 * flat.numel()} codes or one fewer, not {n}"
        )
    codes = torch.stack([flat >> 4, flat & 15], dim=1).view(-1)[:n]
    if dtype in ORDERS:
        codes = _table(dtype).argsort().to(torch.uint8).to(codes.device)[codes.int()]
    return codes


def dequantize_packed(q: Blockwise, book: Tensor, *, dtype: str) -> Tensor:
    """Return the weight, as `dequantize` does, of a Blockwise whose codes `pack` has packed.

    At an even block size a byte is read as one index into the 256 pairs of levels.
    """
    n = q.shape.numel()
    if q.blocksize % 2:
        return dequantize(replace(q, codes=unpack(q.codes, n=n, dtype=dtype)), book)
    every = unpack(torch.arange(256, dtype=torch.uint8), n=512, dtype=dtype)
    codes = every.int().clamp(max=len(book) - 1)  # (512,)
    pairs = book[codes].view(torch.int64).to(q.codes.device)  # (256,), the bits of two levels

    def levels(start: int, stop: int) -> Tensor:
        packed = q.codes[start // 2 : (stop + 1) // 2].int()
        return pairs.index_select(0, packed).view(torch.float32)[: stop - start]

    return times_absmax(q, levels, dtype=None)


@cache
def _table(dtype: str) -> Tensor:
    """Return (16,) uint8: for each place among the ascending levels, the number that is stored."""
    return torch.tensor(ORDERS[dtype], dtype=torch.uint8)


def _zero(dtype: str) -> int:
    return 0 if dtype in ORDERS else 7
