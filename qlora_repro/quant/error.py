"""What a data type loses on given weights, next to the least that any code of its size loses."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qlora_repro.errors import ConfigError
from qlora_repro.quant.blockwise import TINY, dequantize, double_quantize, quantize
from qlora_repro.quant.codebooks import codebook

FREEDOM = 5  # degrees of student_t: heavy tails, and still four moments
SETTLED = 1e-9  # Lloyd: fall of the error in one round, over the mean square of the values
ROUNDS = 2000


@dataclass(frozen=True, kw_only=True)
class QuantError:
    """One tensor in one data type."""

    dtype: str
    blocksize: int
    dq: bool
    n: int  # weights
    mse: float  # mean squared change over the block's absmax
    relative: float  # norm of the change over norm of the weight; 0 for a weight of zeros
    entropy: float  # bits a code carries
    occupancy: tuple[float, ...]  # share of the weights at each of K levels


def error(weight: Tensor, *, dtype: str, blocksize: int, dq: bool = False) -> QuantError:
    """Quantize a weight, as it lies in memory, and measure the change.

    `mse` is in units of each block's absmax before double quantization. Raises ConfigError for a
    dtype without levels, ValueError for NaN or infinite weights and for no weights.
    """
    if not weight.numel():
        raise ValueError("there are no weights to measure")
    book = codebook(dtype, blocksize=blocksize)
    q = quantize(weight, book, blocksize=blocksize)
    absmax = q.absmax
    if dq:
        q = replace(q, absmax=double_quantize(absmax).dequantize())
    flat = weight.detach().reshape(-1).float()  # (N,)
    change = dequantize(q, book, dtype=torch.float32).reshape(-1).sub_(flat)  # (N,)
    norm = float(flat.norm(dtype=torch.float64))
    relative = float(change.norm(dtype=torch.float64)) / norm if norm else 0.0
    scales = absmax.clamp(min=TINY).repeat_interleave(blocksize)[: flat.numel()]
    mse = float((change / scales).square_().mean(dtype=torch.float64))
    share = torch.bincount(q.codes, minlength=len(book)).double() / flat.numel()  # (K,)
    entropy = float(torch.special.entr(share).sum() / torch.log(torch.tensor(2.0)))
    return QuantError(
        dtype=dtype,
        blocksize=blocksize,
        dq=dq,
        n=flat.numel(),
        mse=mse,
        relative=relative,
        entropy=entropy,
        occupancy=tuple(share.tolist()),
    )


def _normal(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng)


def _laplace(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    size = torch.empty(shape).exponential_(generator=rng)
    return size * (torch.randint(0, 2, shape, generator=rng) * 2 - 1)


def _student_t(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    squares = torch.zeros(shape)
    for _ in range(FREEDOM):
        squares += torch.randn(shape, generator=rng).square_()
    return torch.randn(shape, generator=rng) / (squares / FREEDOM).sqrt_()


DISTRIBUTIONS: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "normal": _normal,
    "laplace": _laplace,
    "student_t": _student_t,
}


def sample(distribution: str, *, blocks: int, blocksize: int, seed: int) -> Tensor:
    """Return independent synthetic weights: (blocks, blocksize) float32.

    normal is N(0, 1), laplace has scale 1, student_t has 5 degrees of freedom. The scale does not
    matter to a block-wise type. Raises ConfigError for another distribution.
    """
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise ConfigError(f"distribution is {distribution!r}, and must be one of {known}")
    rng = torch.Generator().manual_seed(seed)
    return DISTRIBUTIONS[distribution]((blocks, blocksize), rng)


def lloyd_max(scaled: Tensor, *, levels: int) -> Tensor:
    """Return the levels of least mean squared error for given values: (levels,) float64, ascending.

    Lloyd's iteration (Max 1960, Lloyd 1982): each level moves to the mean of the values nearest to
    it, until a round lowers the error by less than a billionth of the values' mean square. `scaled`
    are weights over their block's absmax, or any values; no level is held, not even zero. It starts
    from evenly used levels and finds a local optimum, for log-concave densities the only one.

    Raises ValueError for fewer distinct values than levels.
    """
    values = scaled.detach().reshape(-1).double().sort().values  # (N,)
    if levels < 1 or len(values.unique_consecutive()) < levels:
        raise ValueError(f"{levels} levels need as many distinct values, of at least one")
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])  # (N+1,)
    total = float(values.square().sum())
    place = ((torch.arange(levels).double() + 0.5) / levels * len(values)).long()
    book, last = values[place], torch.inf
    for _ in range(ROUNDS):
        cut = torch.searchsorted(values, (book[:-1] + book[1:]) / 2)
        ends = torch.cat([cut.new_zeros(1), cut, cut.new_tensor([len(values)])])  # (levels+1,)
        count, mass = ends.diff(), sums[ends].diff()
        book = torch.where(count > 0, mass / count.clamp(min=1), book)
        now = total - float((mass.square() / count.clamp(min=1)).sum())
        if last - now <= SETTLED * total:
            break
        last = now
    return book
