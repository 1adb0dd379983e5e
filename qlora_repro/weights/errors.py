"""What each data type makes of synthetic and of real weights, beside the best levels there are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qlora_repro.config.validate import NO_DQ
from qlora_repro.quant.codebooks import SIZED, codebook
from qlora_repro.quant.error import QuantError, error, lloyd_max, sample
from qlora_repro.records import Codebook, QuantErrors
from qlora_repro.weights.matrices import Weight

MOST_LEVELS = 16  # of a type with more, no optimum is sought: it takes long, and 8 bits lose little
TINY = 1e-38  # a block of zeros is divided by this instead of by zero


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which types are measured, in which blocks."""

    dtypes: Sequence[str]
    blocksizes: Sequence[int]
    sample: int  # values that optimal levels are fitted to

    @property
    def types(self) -> Iterator[tuple[str, bool]]:
        """Yield (dtype, dq)."""
        for dtype in self.dtypes:
            yield dtype, False
            if dtype not in NO_DQ:
                yield dtype, True


@cache
def levels(dtype: str, blocksize: int) -> int:
    """Return how many numbers a type tells apart.

    >>> levels("nf4", 64), levels("fp4", 64)
    (16, 15)
    """
    return int(codebook(dtype, blocksize=blocksize).unique().numel())


def of_weights(weights: Sequence[Weight], grid: Grid, *, run_id: str) -> Iterator[QuantErrors]:
    """Yield a record a weight, type and block size."""
    for weight in weights:
        for blocksize in grid.blocksizes:
            where = ("weights", weight.name, weight.layer, weight.role)
            yield from _errors(weight.values, where, blocksize, grid=grid, run_id=run_id)


def of_distributions(
    distributions: Sequence[str], grid: Grid, *, blocks: int, seed: int, run_id: str
) -> Iterator[QuantErrors]:
    """Yield a record a distribution, type and block size."""
    for distribution in distributions:
        for blocksize in grid.blocksizes:
            drawn = sample(distribution, blocks=blocks, blocksize=blocksize, seed=seed)
            where = (distribution, "", None, None)
            yield from _errors(drawn, where, blocksize, grid=grid, run_id=run_id)


def codebooks(
    distributions: Sequence[str], grid: Grid, *, blocks: int, seed: int, run_id: str
) -> Iterator[Codebook]:
    """Yield each type's own levels, then the optimal ones of as many levels a distribution."""
    for dtype in grid.dtypes:
        for blocksize in grid.blocksizes if dtype in SIZED else (None,):
            own = codebook(dtype, blocksize=blocksize).unique().tolist()
            yield Codebook(run_id=run_id, dtype=dtype, fitted=None, blocksize=blocksize, levels=own)
    for distribution in distributions:
        for blocksize in grid.blocksizes:
            drawn = sample(distribution, blocks=blocks, blocksize=blocksize, seed=seed)
            scaled = in_absmax(drawn, blocksize=blocksize)
            for count in _counts(grid.dtypes, blocksize):
                book = optimum(scaled, count, sample=grid.sample)
                yield Codebook(
                    run_id=run_id,
                    dtype=f"optimum_{count}",
                    fitted=distribution,
                    blocksize=blocksize,
                    levels=book.tolist(),
                )


def in_absmax(weight: Tensor, *, blocksize: int) -> Tensor:
    """Return the values of whole blocks over their block's absmax: (N,) float32.

    A short last block is left out.
    """
    flat = weight.detach().reshape(-1)
    blocks = flat[: flat.numel() // blocksize * blocksize].reshape(-1, blocksize).float()  # (S, B)
    return (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp_min(TINY)).reshape(-1)


def optimum(scaled: Tensor, count: int, *, sample: int) -> Tensor:
    """Return the Lloyd-Max levels of (N,) values, fitted to about `sample` evenly spread ones.

    Of fewer distinct values than levels, each is its own level.
    """
    step = max(1, scaled.numel() // sample)
    if step > 1:
        step += 1 - step % 2  # odd: an even step would meet the same places of each block
    values = scaled[::step]
    distinct = values.unique()
    return lloyd_max(values, levels=count).to(scaled) if len(distinct) >= count else distinct


def mean_squared(scaled: Tensor, book: Tensor) -> float:
    """Return the mean squared distance of (N,) values to the nearest of ascending levels."""
    edges = (book[:-1] + book[1:]) / 2
    nearest = book[torch.bucketize(scaled, edges)]
    return float((scaled - nearest).double().square().mean())


def _counts(dtypes: Sequence[str], blocksize: int) -> list[int]:
    counts = {levels(dtype, blocksize) for dtype in dtypes}
    return sorted(count for count in counts if count <= MOST_LEVELS)


def _errors(
    values: Tensor,
    where: tuple[str, str, int | None, str | None],
    blocksize: int,
    *,
    grid: Grid,
    run_id: str,
) -> Iterator[QuantErrors]:
    source, name, layer, role = where
    scaled = in_absmax(values, blocksize=blocksize)
    best = {
        count: mean_squared(scaled, optimum(scaled, count, sample=grid.sample))
        for count in _counts(grid.dtypes, blocksize)
        if scaled.numel()
    }
    for dtype, dq in grid.types:
        found: QuantError = error(values, dtype=dtype, blocksize=blocksize, dq=dq)
        yield QuantErrors(
            run_id=run_id,
            source=source,
            name=name,
            layer=layer,
            role=role,
            dtype=dtype,
            blocksize=blocksize,
            dq=dq,
            n=found.n,
            levels=levels(dtype, blocksize),
            mse=found.mse,
            relative=found.relative,
            entropy=found.entropy,
            optimum=best.get(levels(dtype, blocksize)),
        )
