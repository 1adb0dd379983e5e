"""How far approximations are off: a data type on given weights, and SRAM quantiles of a sample.

`measure_error` is a data type's error, `fit_lloyd_max` gives the least that any code of as many
levels loses, and `sample_weights` draws synthetic weights to measure both on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlora_repro.errors import ConfigError
from qlora_repro.quant.blockwise import MIN_ABSMAX, dequantize, double_quantize, quantize
from qlora_repro.quant.codebooks import make_codebook
from qlora_repro.records import QuantError, SramQuantiles

DEGREES_OF_FREEDOM = 5  # of student_t: heavy tails, and still four moments
LLOYD_TOLERANCE = 1e-9  # fall of the error in one round, over the mean square of the values
LLOYD_ROUNDS = 2000

Floats = NDArray[np.float64]


def measure_error(weight: Tensor, *, dtype: str, blocksize: int, dq: bool = False) -> QuantError:
    """Quantize a weight, in its order in memory, and measure the change.

    `mse` is in units of each block's absmax before double quantization.

    Raises:
        ConfigError: the type has no levels.
        ValueError: weights are NaN or infinite, or there are none.
    """
    if not weight.numel():
        raise ValueError("there are no weights to measure")
    book = make_codebook(dtype, blocksize=blocksize)
    q = quantize(weight, book, blocksize=blocksize)
    absmax = q.absmax
    if dq:
        q = replace(q, absmax=double_quantize(absmax).dequantize())
    flat = weight.detach().reshape(-1).float()  # (N,)
    change = dequantize(q, book, dtype=torch.float32).reshape(-1).sub_(flat)  # (N,)
    norm = float(flat.norm(dtype=torch.float64))
    relative = float(change.norm(dtype=torch.float64)) / norm if norm else 0.0
    scales = absmax.clamp(min=MIN_ABSMAX).repeat_interleave(blocksize)[: flat.numel()]
    mse = float((change / scales).square_().mean(dtype=torch.float64))
    share = torch.bincount(q.codes, minlength=len(book)).double() / flat.numel()  # (K,)
    entropy = float(torch.special.entr(share).sum() / torch.log(torch.tensor(2.0)))
    return QuantError(n=flat.numel(), mse=mse, relative=relative, entropy=entropy)


def _normal(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng)


def _laplace(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    size = torch.empty(shape).exponential_(generator=rng)
    return size * (torch.randint(0, 2, shape, generator=rng) * 2 - 1)


def _student_t(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    squares = torch.zeros(shape)
    for _ in range(DEGREES_OF_FREEDOM):
        squares += torch.randn(shape, generator=rng).square_()
    return torch.randn(shape, generator=rng) / (squares / DEGREES_OF_FREEDOM).sqrt_()


DISTRIBUTIONS: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "normal": _normal,
    "laplace": _laplace,
    "student_t": _student_t,
}


def sample_weights(distribution: str, *, blocks: int, blocksize: int, seed: int) -> Tensor:
    """Return independent synthetic weights: (blocks, blocksize) float32.

    normal is N(0, 1), laplace has scale 1, student_t has 5 degrees of freedom. The scale does not
    matter to a block-wise type.

    Raises:
        ConfigError: it is another distribution.
    """
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise ConfigError(f"distribution is {distribution!r}, and must be one of {known}")
    rng = torch.Generator().manual_seed(seed)
    return DISTRIBUTIONS[distribution]((blocks, blocksize), rng)


def fit_lloyd_max(scaled: Tensor, *, levels: int) -> Tensor:
    """Return the levels of least mean squared error for given values: (levels,) float64, ascending.

    Lloyd's iteration (Max 1960, Lloyd 1982): each level moves to the mean of the values nearest to
    it, until a round lowers the error by less than a billionth of the values' mean square. `scaled`
    are weights over their block's absmax, or any values; no level is fixed, not even zero. The
    start is evenly used levels, the result a local optimum, for log-concave densities the only one.

    Raises:
        ValueError: there are fewer distinct values than levels.
    """
    values = scaled.detach().reshape(-1).double().sort().values  # (N,)
    if levels < 1 or len(values.unique_consecutive()) < levels:
        raise ValueError(f"{levels} levels need as many distinct values, of at least one")
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])  # (N+1,)
    total = float(values.square().sum())
    start = ((torch.arange(levels).double() + 0.5) / levels * len(values)).long()
    book, last = values[start], torch.inf
    for _ in range(LLOYD_ROUNDS):
        cut = torch.searchsorted(values, (book[:-1] + book[1:]) / 2)
        ends = torch.cat([cut.new_zeros(1), cut, cut.new_tensor([len(values)])])  # (levels+1,)
        count, mass = ends.diff(), sums[ends].diff()
        book = torch.where(count > 0, mass / count.clamp(min=1), book)
        now = total - float((mass.square() / count.clamp(min=1)).sum())
        if last - now <= LLOYD_TOLERANCE * total:
            break
        last = now
    return book


def estimate_sram_quantiles(values: Tensor, probabilities: Floats, *, chunk: int) -> Floats:
    """Return the mean over chunks of each chunk's exact quantiles: (P,) of (P,) probabilities.

    A chunk fits the fast memory of one processor, which makes this cheap (Dettmers et al. 2022,
    the estimate that QLoRA, Section 2, builds on). A short last chunk is left out. The mean of
    chunk quantiles settles at the expected order statistic of a chunk and not at the quantile: in
    the tails, near the ends of [0, 1], it stays nearer the median however many chunks there are.

    Raises:
        ValueError: the values do not fill one chunk.
    """
    chunks = values.numel() // chunk if chunk > 0 else 0
    if not chunks:
        raise ValueError(f"{values.numel()} values do not fill a chunk of {chunk}")
    full = values.detach().reshape(-1)[: chunks * chunk].view(chunks, chunk)
    means: Floats = np.quantile(full.double().numpy(), probabilities, axis=1).mean(axis=1)
    return means


def measure_sram_errors(
    values: Tensor, *, chunks: Sequence[int], counts: Sequence[int], levels: int = 15, **names: str
) -> Iterator[SramQuantiles]:
    """Compare SRAM with exact quantiles for every chunk size and number of chunks that fits.

    Both are of the same values, the first chunk * count, at `levels` probabilities spaced evenly
    inside of (0, 1). Values should be in random order: chunks are cut as they come. `names` are
    what the records say of where the values are from.
    """
    flat = values.detach().reshape(-1)
    inner = np.linspace(0, 1, levels + 2)[1:-1]
    for chunk, count in product(chunks, counts):
        if chunk * count > flat.numel():
            continue
        used = flat[: chunk * count]
        exact = np.quantile(used.double().numpy(), inner)
        change = estimate_sram_quantiles(used, inner, chunk=chunk) - exact
        median = np.median(used.double().numpy())
        yield SramQuantiles(
            **names,
            chunk=chunk,
            count=count,
            levels=levels,
            mean=float(np.abs(change).mean()),
            largest=float(np.abs(change).max()),
            outward=float((change * np.sign(exact - median)).mean()),
        )
