"""Which level is nearest, and which level a code stands for: the two inner loops of a quantizer.

On a CPU a binary search per value is slow. A value's place on a grid of [-1, 1] with at most one
edge in a cell tells all but the last comparison; and reading two neighbouring codes as one index
into a table of pairs halves the look-ups. Both give the very bits of the plain way.
"""

from collections.abc import Callable

import torch
from torch import Tensor

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
