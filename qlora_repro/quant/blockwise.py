"""Quantize and dequantize in blocks, once or twice, to the bit as bitsandbytes does on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qlora_repro.quant.codebook import codebook
from qlora_repro.quant.pages import empty
from qlora_repro.quant.pieces import in_pieces, one_thread
from qlora_repro.quant.search import finder, reader

CHUNK = 1 << 17  # weights worked on at a time: their float32 copies fit a core's cache
READ = 1 << 19  # the same when reading back, which takes fewer and shorter steps
TINY = 1e-38  # a block of zeros is divided by this instead of by zero
GRID = 65536  # bitsandbytes' CPU kernel looks 8-bit codes up on a grid of so many points


@dataclass(frozen=True)
class Blockwise:
    """A quantized weight. N weights in C order, B to a block; the last block may be shorter."""

    codes: Tensor  # (N,) uint8, indices into the codebook, not packed
    absmax: Tensor  # (ceil(N / B),) float32
    shape: torch.Size
    dtype: torch.dtype  # of the weight that was quantized
    blocksize: int


@dataclass(frozen=True)
class DoubleQuant:
    """Quantized quantization constants. S constants, B to a block."""

    codes: Tensor  # (S,) uint8, indices into the levels of `code`
    absmax: Tensor  # (ceil(S / B),) float32, the second-level constants
    offset: Tensor  # () float32, the mean taken off before
    blocksize: int
    code: str = "dynamic8"

    def dequantize(self) -> Tensor:
        """Return the constants as they are used: (S,) float32."""
        size, book = torch.Size([self.codes.numel()]), codebook(self.code)
        q = Blockwise(self.codes, self.absmax, size, torch.float32, self.blocksize)
        with one_thread():  # they are few
            return dequantize(q, book) + self.offset


def quantize(weight: Tensor, book: Tensor, *, blocksize: int) -> Blockwise:
    """Quantize a weight of any shape to the nearest of K ascending levels, block by block.

    Bit for bit what bitsandbytes' quantize_4bit does on a CPU: a full block is multiplied by the
    reciprocal of its absmax, a short last block divided by it, and a value halfway between two
    levels takes the lower one. (Its CUDA kernels were not compared.)

    Raises ValueError for a block size below 1 and for NaN or infinite weights.
    """
    if blocksize < 1:
        raise ValueError(f"blocksize is {blocksize}, and must be at least 1")
    flat = weight.detach().reshape(-1)  # (N,)
    book = book.to(flat.device)
    find = finder(book, n=flat.numel())
    codes = empty(flat.numel(), dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(-(-flat.numel() // blocksize), device=flat.device)

    def work(start: int, stop: int) -> None:
        part = flat[start:stop]
        largest = absmax[start // blocksize : -(-stop // blocksize)]
        scaled = _scale(part, largest, blocksize=blocksize)
        if not largest.isfinite().all():
            bad = flat.numel() - sum(int(p.isfinite().sum()) for p in flat.split(CHUNK))
            raise ValueError(f"{bad} of {flat.numel()} weights are NaN or infinite")
        if short := part.numel() % blocksize:
            torch.div(part[-short:].float(), largest[-1].clamp_(min=TINY), out=scaled[-short:])
        find(scaled, codes[start:stop])

    in_pieces(work, flat.numel(), step=_step(blocksize))
    return Blockwise(codes, absmax, weight.shape, weight.dtype, blocksize)


def dequantize(q: Blockwise, book: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the weight in its own shape; `dtype` is the quantized weight's own unless given."""
    read = reader(book.to(q.codes.device), n=q.codes.numel())
    return times_absmax(q, lambda start, stop: read(q.codes[start:stop]), dtype=dtype)


def times_absmax(
    q: Blockwise, levels: Callable[[int, int], Tensor], *, dtype: torch.dtype | None
) -> Tensor:
    """Return the weight whose levels `levels` returns from one place to another, anew: float32."""
    out = empty(q.shape.numel(), dtype=dtype or q.dtype, device=q.codes.device)
    size = q.blocksize

    def work(start: int, stop: int) -> None:
        found = levels(start, stop)  # (stop - start,)
        part, absmax = out[start:stop], q.absmax[start // size : -(-stop // size)]
        whole = part.numel() - part.numel() % size
        found[:whole].view(-1, size).mul_(absmax[: whole // size, None])
        if whole < part.numel():
            found[whole:].mul_(absmax[-1])
        part.copy_(found)  # a product written to 16 bits at once would go through a copy too

    in_pieces(work, out.numel(), step=_step(size, READ))
    return out.reshape(q.shape)


def double_quantize(absmax: Tensor, *, blocksize: int = 256, code: str = "dynamic8") -> DoubleQuant:
    """Quantize the (S,) quantization constants themselves (QLoRA, Section 3).

    At blocks of 64 and 256 it costs 8/64 + 32/(64 * 256) = 0.127 bits per weight, not 32/64 = 0.5.
    The constants are positive, so their mean over the whole tensor is taken off first. `code` is
    "dynamic8", the map of the released code, or the type that the paper's text names: "fp8_e4m3".

    On a CPU bitsandbytes rounds the scaled constant to a grid of 65,536 points before it looks up
    the nearest code of its map, which now and then gives the second nearest; so does this.
    Elsewhere its kernels search, and this takes the nearest, as it does in any other code.
    """
    if not absmax.numel():
        raise ValueError("there are no quantization constants to quantize")
    offset = absmax.mean()
    centred = absmax - offset  # (S,)
    if code != "dynamic8" or absmax.device.type != "cpu":
        q = quantize(centred, codebook(code), blocksize=blocksize)
        return DoubleQuant(q.codes, q.absmax, offset, blocksize, code)
    second = absmax.new_empty(-(-absmax.numel() // blocksize))
    codes, grid = torch.empty(absmax.numel(), dtype=torch.uint8), _grid()

    def work(start: int, stop: int) -> None:
        largest = second[start // blocksize : -(-stop // blocksize)]
        scaled = _scale(centred[start:stop], largest, blocksize=blocksize).clamp_(-1, 1)
        point = ((scaled + 1.0) * 0.5 * (GRID - 1) + 0.5).int()
        torch.index_select(grid, 0, point, out=codes[start:stop])

    in_pieces(work, absmax.numel(), step=_step(blocksize))
    return DoubleQuant(codes, second, offset, blocksize, code)


def _step(blocksize: int, chunk: int = CHUNK) -> int:
    """Return the weights of as many whole blocks as fit a chunk, one at least."""
    return max(1, chunk // blocksize) * blocksize


def _scale(flat: Tensor, absmax: Tensor, *, blocksize: int) -> Tensor:
    """Return (N,) float32 over its block's absmax, which is written to (ceil(N/B),) `absmax`."""
    if short := -flat.numel() % blocksize:
        flat = torch.nn.functional.pad(flat, (0, short))
    blocks = flat.float().view(-1, blocksize)  # (ceil(N/B), B)
    torch.amax(blocks.abs(), dim=1, out=absmax)
    scaled = blocks * (1.0 / absmax.clamp(min=TINY))[:, None]
    return scaled.view(-1)[: scaled.numel() - short]


@cache
def _grid() -> Tensor:
    """Return (65536,) uint8: the dynamic map's code for each grid point of [-1, 1]."""
    book = codebook("dynamic8")
    points = -1.0 + (2.0 * torch.arange(GRID, dtype=torch.float32)) / (GRID - 1)
    return torch.bucketize(points, (book[:-1] + book[1:]) / 2).to(torch.uint8)
