"""Memory for results of many megabytes, in large pages where the kernel lends them.

Work on a long tensor in pieces that fit a core's cache, each core on pieces of its own.

Which level is nearest, and which level a code stands for: the two inner loops of a quantizer.

On a CPU a binary search per value is slow. A value's place on a grid of [-1, 1] with at most one
edge in a cell tells all but the last comparison; and reading two neighbouring codes as one index
into a table of pairs halves the look-ups. Both give the very bits of the plain way.

Quantize and dequantize in blocks, once or twice, to the bit as bitsandbytes does on a CPU.

4-bit codes two to a byte, in the byte layout of bitsandbytes.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from qlora_repro.quant.codebooks import codebook

LEAST = 1 << 22  # bytes; below it large pages are not worth a call to the kernel


def empty(n: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (n,) uninitialized values, in huge pages where the kernel lends them.

    Fresh memory is mapped page by page as it is written to: the 8,192 pages of a 4096 x 4096 bf16
    result take longer than dequantizing into them. Memory that is mapped already stays as it is.
    """
    made = torch.empty(n, dtype=dtype, device=device)
    size, start = made.nbytes, made.data_ptr()
    if device.type == "cpu" and size >= LEAST and hasattr(mmap, "MADV_HUGEPAGE"):
        begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - begin
        advise = ctypes.CDLL(None).madvise  # a kernel without huge pages refuses: plain ones do
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(whole), mmap.MADV_HUGEPAGE)
    return made


def in_pieces(work: Callable[[int, int], None], n: int, *, step: int) -> None:
    """Call work(start, stop) for every `step` of n, in as many threads as torch may use.

    Meanwhile torch's own operations stay in the thread that calls them. Left to itself torch splits
    each operation over the cores and waits for all of them at its end, which costs more than the
    operation when another process holds a core. Each piece is computed alike in any number of
    threads. Raises what `work` raises.
    """
    starts = range(0, n, step)
    threads = min(torch.get_num_threads(), len(starts))

    def run(own: range) -> None:
        for start in own:
            work(start, min(start + step, n))

    if threads <= 1:
        run(starts)
        return
    share = -(-len(starts) // threads)
    with one_thread(), ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(run, starts[i : i + share]) for i in range(share, len(starts), share)]
        run(starts[:share])  # a core that only waited would be one too few
        for other in others:
            other.result()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's own operations in the thread that calls them.

    Its other threads go on spinning for a while after each operation, on cores wanted here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


FINEST = 1 << 15  # grid cells on either side of zero; edges closer together are searched for
PAIRED = 16  # levels of 4-bit codes, whose pairs of bytes are below 16 * 256
WORTH = 1 << 12  # values; fewer cost less than the tables


def finder(book: Tensor, *, n: int) -> Callable[[Tensor, Tensor], None]:
    """Return a function that writes to its second argument the codes of its first.

    It takes (N,) float32 values within [-1, 1] and a rounding beyond, and (N,) uint8 codes. A value
    gets the nearest of K ascending levels, and halfway between two the lower. `n` values are to
    come.
    """
    edges = (book[:-1] + book[1:]) / 2  # (K-1,)
    cells = _cells(edges) if book.device.type == "cpu" and n >= WORTH else None

    def search(values: Tensor, codes: Tensor) -> None:
        codes.copy_(torch.bucketize(values, edges, out_int32=True))

    if cells is None:
        return search
    scale, below, edge = cells

    def place(values: Tensor, codes: Tensor) -> None:
        cell = (values * scale).int().add_(scale)  # exact: scale is a power of two
        torch.index_select(below, 0, cell, out=codes)
        codes += (values > edge.index_select(0, cell)).view(torch.uint8)

    return place


def reader(book: Tensor, *, n: int) -> Callable[[Tensor], Tensor]:
    """Return a function from (N,) uint8 codes to their (N,) float32 levels; `n` are to come."""

    def each(codes: Tensor) -> Tensor:
        return book.index_select(0, codes.int())

    if len(book) > PAIRED or n < WORTH:
        return each
    pairs = _pairs(book)

    def by_two(codes: Tensor) -> Tensor:
        if codes.numel() % 2 or codes.storage_offset() % 2:
            return each(codes)
        return pairs.index_select(0, codes.view(torch.int16).int()).view(torch.float32)

    return by_two


def _cells(edges: Tensor) -> tuple[int, Tensor, Tensor] | None:
    """Return (scale, below, edge), or None where no grid tells the edges apart.

    A value v is in cell trunc(scale * v) + scale of 2 * scale + 1. `below` (uint8) counts the edges
    in lower cells, `edge` (float32) is the one in this cell, infinite where there is none.
    """
    scale = PAIRED
    while scale <= FINEST:
        taken = (edges * scale).int() + scale  # (K-1,)
        if bool((taken.diff() > 0).all()):
            below = torch.searchsorted(taken, torch.arange(2 * scale + 1, dtype=torch.int32))
            edge = torch.full((2 * scale + 1,), torch.inf)
            edge[taken] = edges
            return scale, below.to(torch.uint8), edge
        scale *= 2
    return None


def _pairs(book: Tensor) -> Tensor:
    """Return (4096,) int64: for two codes read as one 16-bit index, the bits of their levels."""
    index = torch.arange(PAIRED * 256, dtype=torch.int16, device=book.device)
    codes = index.view(torch.uint8).int().clamp(max=len(book) - 1)  # (8192,)
    return book.index_select(0, codes).view(torch.int64)


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
