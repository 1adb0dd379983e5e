"""Quantize and dequantize in blocks, once or twice, to the bit as bitsandbytes does on a CPU.

Start with `quantize` and `dequantize`; `double_quantize` quantizes the constants themselves, and
`pack_codes` lays out 4-bit codes as bitsandbytes does. What is there for speed alone, the chunks in
threads and the search on a grid, gives the very bits of the plain way: `experiments.bench_quant`
shows what it is worth.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from qlora_repro.quant.codebooks import make_codebook

QUANTIZE_CHUNK = 1 << 17  # weights worked on at a time: their float32 copies fit a core's cache
DEQUANTIZE_CHUNK = 1 << 19  # the same when reading back, which takes fewer and shorter steps
MIN_ABSMAX = 1e-38  # a block of zeros is divided by this instead of by zero
DYNAMIC_GRID = 65536  # bitsandbytes' CPU kernel looks 8-bit codes up on a grid of so many points
SEARCH_GRIDS = [1 << power for power in range(4, 16)]  # cells on either side of zero
MIN_SEARCH_VALUES = 1 << 12  # fewer cost less than the tables of a search grid


@dataclass(frozen=True)
class QuantizedWeight:
    """A quantized weight. N weights in C order, B to a block; the last block may be shorter."""

    codes: Tensor  # (N,) uint8, indices into the codebook, not packed
    absmax: Tensor  # (ceil(N / B),) float32
    shape: torch.Size
    dtype: torch.dtype  # of the weight that was quantized
    blocksize: int


@dataclass(frozen=True)
class QuantizedConstants:
    """Quantized quantization constants. S constants, B to a block."""

    codes: Tensor  # (S,) uint8, indices into the levels of `code`
    absmax: Tensor  # (ceil(S / B),) float32, the second-level constants
    offset: Tensor  # () float32, the mean taken off before
    blocksize: int
    code: str = "dynamic8"

    def dequantize(self) -> Tensor:
        """Return the constants as they are used: (S,) float32."""
        size = torch.Size([self.codes.numel()])
        q = QuantizedWeight(self.codes, self.absmax, size, torch.float32, self.blocksize)
        with _single_torch_thread():  # they are few
            return dequantize(q, make_codebook(self.code)) + self.offset


def quantize(weight: Tensor, book: Tensor, *, blocksize: int) -> QuantizedWeight:
    """Quantize a weight of any shape to the nearest of K ascending levels, block by block.

    Bit for bit what bitsandbytes' quantize_4bit does on a CPU: a full block is multiplied by the
    reciprocal of its absmax, a short last block divided by it, and a value halfway between two
    levels takes the lower one. (Its CUDA kernels were not compared.)

    Raises:
        ValueError: the block size is below 1, or weights are NaN or infinite.
    """
    if blocksize < 1:
        raise ValueError(f"blocksize is {blocksize}, and must be at least 1")
    flat = weight.detach().reshape(-1)  # (N,)
    search = make_code_search(book.to(flat.device), n=flat.numel())
    codes = torch.empty(flat.numel(), dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(-(-flat.numel() // blocksize), device=flat.device)

    def quantize_chunk(start: int, stop: int) -> None:
        chunk = flat[start:stop]
        largest = absmax[start // blocksize : -(-stop // blocksize)]
        scaled = _scale_by_absmax(chunk, largest, blocksize=blocksize)
        if not largest.isfinite().all():
            bad = flat.numel() - sum(int(c.isfinite().sum()) for c in flat.split(QUANTIZE_CHUNK))
            raise ValueError(f"{bad} of {flat.numel()} weights are NaN or infinite")
        if short := chunk.numel() % blocksize:
            divisor = largest[-1].clamp_(min=MIN_ABSMAX)
            torch.div(chunk[-short:].float(), divisor, out=scaled[-short:])
        search(scaled, codes[start:stop])

    _run_in_chunks(quantize_chunk, flat.numel(), QUANTIZE_CHUNK, blocksize)
    return QuantizedWeight(codes, absmax, weight.shape, weight.dtype, blocksize)


def dequantize(q: QuantizedWeight, book: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the weight in its own shape; `dtype` is the quantized weight's own unless given."""
    book = book.to(q.codes.device)

    def read_levels(start: int, stop: int) -> Tensor:
        return book.index_select(0, q.codes[start:stop].int())

    return _scale_levels(q, read_levels, dtype or q.dtype)


def dequantize_packed(q: QuantizedWeight, book: Tensor, *, dtype: str) -> Tensor:
    """Return the weight, as `dequantize` does, of one whose codes `pack_codes` has packed.

    At an even block size a byte is read as one index into the 256 pairs of levels.
    """
    n = q.shape.numel()
    if q.blocksize % 2:
        return dequantize(replace(q, codes=unpack_codes(q.codes, n=n, dtype=dtype)), book)
    codes = unpack_codes(torch.arange(256, dtype=torch.uint8), n=512, dtype=dtype)
    levels = book[codes.int().clamp(max=len(book) - 1)]  # (512,)
    pairs = levels.view(torch.int64).to(q.codes.device)  # (256,), the bits of two levels

    def read_levels(start: int, stop: int) -> Tensor:
        packed = q.codes[start // 2 : (stop + 1) // 2].int()
        return pairs.index_select(0, packed).view(torch.float32)[: stop - start]

    return _scale_levels(q, read_levels, q.dtype)


def _scale_levels(
    q: QuantizedWeight, read_levels: Callable[[int, int], Tensor], dtype: torch.dtype
) -> Tensor:
    """Return the levels times their blocks' absmax.

    `read_levels` returns those from one position to another, in float32 and in memory of their own.
    """
    weight = torch.empty(q.shape.numel(), dtype=dtype, device=q.codes.device)
    size = q.blocksize

    def scale_chunk(start: int, stop: int) -> None:
        levels = read_levels(start, stop)  # (stop - start,)
        chunk, absmax = weight[start:stop], q.absmax[start // size : -(-stop // size)]
        full = chunk.numel() - chunk.numel() % size
        levels[:full].view(-1, size).mul_(absmax[: full // size, None])
        if full < chunk.numel():
            levels[full:].mul_(absmax[-1])
        chunk.copy_(levels)  # a product written to 16 bits at once would go through a copy too

    _run_in_chunks(scale_chunk, weight.numel(), DEQUANTIZE_CHUNK, size)
    return weight.reshape(q.shape)


def double_quantize(
    absmax: Tensor, *, blocksize: int = 256, code: str = "dynamic8"
) -> QuantizedConstants:
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
        q = quantize(centred, make_codebook(code), blocksize=blocksize)
        return QuantizedConstants(q.codes, q.absmax, offset, blocksize, code)
    second = absmax.new_empty(-(-absmax.numel() // blocksize))
    grid, codes = _build_dynamic_grid(), torch.empty(absmax.numel(), dtype=torch.uint8)

    def quantize_chunk(start: int, stop: int) -> None:
        largest = second[start // blocksize : -(-stop // blocksize)]
        scaled = _scale_by_absmax(centred[start:stop], largest, blocksize=blocksize).clamp_(-1, 1)
        point = ((scaled + 1.0) * 0.5 * (DYNAMIC_GRID - 1) + 0.5).int()
        torch.index_select(grid, 0, point, out=codes[start:stop])

    _run_in_chunks(quantize_chunk, absmax.numel(), QUANTIZE_CHUNK, blocksize)
    return QuantizedConstants(codes, second, offset, blocksize, code)


def _scale_by_absmax(flat: Tensor, absmax: Tensor, *, blocksize: int) -> Tensor:
    """Return (N,) float32 over its block's absmax, which is written to (ceil(N/B),) `absmax`."""
    if short := -flat.numel() % blocksize:
        flat = torch.nn.functional.pad(flat, (0, short))
    blocks = flat.float().view(-1, blocksize)  # (ceil(N/B), B)
    torch.amax(blocks.abs(), dim=1, out=absmax)
    scaled = blocks * (1.0 / absmax.clamp(min=MIN_ABSMAX))[:, None]
    return scaled.view(-1)[: scaled.numel() - short]


@cache
def _build_dynamic_grid() -> Tensor:
    """Return (65536,) uint8: the dynamic map's code for each grid point of [-1, 1]."""
    book = make_codebook("dynamic8")
    points = -1.0 + (2.0 * torch.arange(DYNAMIC_GRID, dtype=torch.float32)) / (DYNAMIC_GRID - 1)
    return torch.bucketize(points, (book[:-1] + book[1:]) / 2).to(torch.uint8)


def make_code_search(book: Tensor, *, n: int) -> Callable[[Tensor, Tensor], None]:
    """Return a function that writes to its second argument the codes of its first.

    It takes (N,) float32 values within [-1, 1] and a rounding beyond, and (N,) uint8 codes. A value
    gets the nearest of K ascending levels, and halfway between two the lower. `n` values are to
    come. On a CPU a binary search a value is slow: a value's position on a grid of [-1, 1] with at
    most one edge in a cell tells all but the last comparison.
    """
    edges = (book[:-1] + book[1:]) / 2  # (K-1,)
    on_grid = book.device.type == "cpu" and n >= MIN_SEARCH_VALUES
    tables = _build_search_grid(edges) if on_grid else None

    def bisect(values: Tensor, codes: Tensor) -> None:
        codes.copy_(torch.bucketize(values, edges, out_int32=True))

    if tables is None:
        return bisect
    scale, below, edge = tables

    def search(values: Tensor, codes: Tensor) -> None:
        cell = (values * scale).int().add_(scale)  # exact: scale is a power of two
        torch.index_select(below, 0, cell, out=codes)
        codes += (values > edge.index_select(0, cell)).view(torch.uint8)

    return search


def _build_search_grid(edges: Tensor) -> tuple[int, Tensor, Tensor] | None:
    """Return (scale, below, edge), or None where no grid tells the edges apart.

    A value v is in cell trunc(scale * v) + scale of 2 * scale + 1. `below` (uint8) counts the edges
    in lower cells, `edge` (float32) is the one in this cell, infinite where there is none.
    """
    for scale in SEARCH_GRIDS:
        cells = (edges * scale).int() + scale  # (K-1,)
        if bool((cells.diff() > 0).all()):
            below = torch.searchsorted(cells, torch.arange(2 * scale + 1, dtype=torch.int32))
            edge = torch.full((2 * scale + 1,), torch.inf)
            edge[cells] = edges
            return scale, below.to(torch.uint8), edge
    return None


def _run_in_chunks(work: Callable[[int, int], None], n: int, chunk: int, blocksize: int) -> None:
    """Call work(start, stop) for each chunk of n weights, in as many threads as torch may use.

    Chunks are full blocks, about `chunk` weights. Meanwhile torch's own operations stay in the
    thread that calls them: left to itself torch splits each operation over the cores and waits for
    all of them at its end, which costs more than the operation when another process has a core.
    """
    step = max(1, chunk // blocksize) * blocksize
    starts = range(0, n, step)
    threads = min(torch.get_num_threads(), len(starts))

    def run(some: range) -> None:
        for start in some:
            work(start, min(start + step, n))

    if threads <= 1:
        run(starts)
        return
    share = -(-len(starts) // threads)
    with _single_torch_thread(), ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(run, starts[i : i + share]) for i in range(share, len(starts), share)]
        run(starts[:share])  # a core that only waited would be one too few
        for other in others:
            other.result()


@contextmanager
def _single_torch_thread() -> Iterator[None]:
    """Keep torch's own operations in the thread that calls them.

    Its other threads go on spinning for a while after each operation, on cores wanted here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# bitsandbytes numbers FP4's levels by their bits (sign, then magnitude), and not by their size
STORED_CODES = {"fp4": (11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3)}


def pack_codes(codes: Tensor, *, dtype: str) -> Tensor:
    """Return (N,) uint8 codes below 16 as (ceil(N/2),) uint8, the first of two in the high bits.

    `dtype` decides which number stands for a level: in fp4 it is bitsandbytes' own, otherwise its
    position among the ascending levels. An odd last code is followed by that of bitsandbytes'
    padding, which no one reads: the code of zero.

    Raises:
        ValueError: a code is above 15.
    """
    if codes.numel() and int(codes.max()) > 15:
        raise ValueError(f"a code is {int(codes.max())}, and must be at most 15 to take 4 bits")
    if dtype in STORED_CODES:
        codes = _stored_codes(dtype).to(codes.device).index_select(0, codes.int())
    if codes.numel() % 2:
        zero = STORED_CODES.get(dtype, range(16))[7]
        codes = torch.cat([codes, codes.new_tensor([zero])])
    return codes[::2] << 4 | codes[1::2]


def unpack_codes(packed: Tensor, *, n: int, dtype: str) -> Tensor:
    """Return the first n codes of what `pack_codes` returned: (n,) uint8.

    Raises:
        ValueError: there are not that many.
    """
    flat = packed.reshape(-1)
    if (n + 1) // 2 != flat.numel():
        raise ValueError(
            f"{flat.numel()} bytes hold {2 * flat.numel()} codes or one fewer, not {n}"
        )
    codes = torch.stack([flat >> 4, flat & 15], dim=1).view(-1)[:n]
    if dtype in STORED_CODES:
        codes = _stored_codes(dtype).argsort().to(torch.uint8).to(codes.device)[codes.int()]
    return codes


@cache
def _stored_codes(dtype: str) -> Tensor:
    """Return (16,) uint8: for each ascending level, the number that is stored."""
    return torch.tensor(STORED_CODES[dtype], dtype=torch.uint8)
