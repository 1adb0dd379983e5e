"""Floating-point data types of 4 and 8 bits: all numbers of one, divided by the largest.

NormalFloat and other types made from the quantiles of what is to be stored.

AbnormalFloat4: the levels of least absolute error for absmax-scaled normal weights.

Yoshida 2023 (arXiv 2306.06965): a normal weight over the absmax of its block of B is not normal.
One weight of the block is -1 or 1, and given the absmax m the others are independent normal weights
cut off at -m and m. The absmax has the density 2 B f(m) (2 F(m) - 1)^(B-1) with f and F those of
N(0, 1), so that the scaled value has an atom of 1 / 2B at each end and in between the distribution

    G(x) = integral of (F(x m) - F(-m)) / (2 F(m) - 1) over the density of m.

Levels of least expected absolute error are each the median of what rounds to them. -1, 0 and 1 are
held, and the atoms lie in the cells of -1 and 1, so the other levels depend on G alone.

The levels of each data type: what a code means before its block's absmax scales it.
"""

from collections.abc import Callable
from functools import cache, partial
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
from scipy.special import ndtr
from torch import Tensor

from qlora_repro.errors import ConfigError
from qlora_repro.quant.quantiles import quantiles


def mirror(positive: Tensor) -> Tensor:
    """Return levels -p..., 0, p... of ascending positive levels, the largest scaled to 1."""
    positive = positive / positive.max()
    return torch.cat([-positive.flip(0), torch.zeros(1), positive])


def minifloat(exponent: int, mantissa: int, *, bias: int, reserved: int = 0) -> Tensor:
    """Return the levels of a sign, exponent bits and mantissa bits: (K,) float32, zero once.

    An exponent field of zero holds the subnormals. `reserved` magnitudes at the top stand for
    infinity and NaN and hold no number.
    """
    steps = 2**mantissa
    code = torch.arange(1, 2 ** (exponent + mantissa) - reserved)  # magnitudes above zero
    field, fraction = code // steps, (code % steps) / steps
    lead = (field > 0).float()  # the hidden one that a subnormal lacks
    return mirror(torch.exp2(field.clamp(min=1).float() - bias) * (lead + fraction))


def fp4() -> Tensor:
    """Return bitsandbytes' FP4: +-{0, 0.0625, 2, 3, 4, 6, 8, 12} / 12, 16 codes and 15 numbers.

    Two exponent bits and one mantissa bit, but 0.0052 where OCP's E2M1 has its subnormal 1/12. Zero
    has a code for each sign. bitsandbytes sorts 0.0 before -0.0, so that a weight which rounds to
    zero from above reads -0.0, and so it does here.
    """
    positive = torch.tensor([0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]) / 12
    return torch.cat([-positive.flip(0), torch.tensor([0.0, -0.0]), positive])


def fp4_e2m1() -> Tensor:
    """Return OCP's E2M1: two exponent bits with bias 1, one mantissa bit; +-{0, 0.5 ... 6} / 6."""
    return minifloat(2, 1, bias=1)


def fp4_e3m0() -> Tensor:
    """Return E3M0: three exponent bits and no mantissa, seven powers of two each side of zero."""
    return minifloat(3, 0, bias=3)


def fp8_e4m3() -> Tensor:
    """Return OCP's E4M3 over its largest, 448: 253 levels, infinity given up for one more octave.

    Where QLoRA (Section 3) says that double quantization stores its constants in FP8, this is the
    type that the name suggests; the released code uses `dynamic8`.
    """
    return minifloat(4, 3, bias=7, reserved=1)


def fp8_e5m2() -> Tensor:
    """Return OCP's E5M2 over its largest, 57344: 247 levels, with infinity as IEEE 754 has it."""
    return minifloat(5, 2, bias=15, reserved=4)


def asymmetric(quantile: Callable[[float], float], *, bits: int) -> Tensor:
    """Return 2^bits levels from a quantile function, zero exactly among them: (K,) float32.

    Quantiles at evenly spaced probabilities from `outermost(bits)` down to 1/2, half of the levels
    above zero and one less below it, where the mirror image of the upper half stands; 1/2 itself
    gives the zero that both sides share. All are divided by the largest. `quantile` belongs to a
    distribution symmetric about zero; only its upper half is asked for.
    """
    half = 2 ** (bits - 1)

    def side(count: int) -> list[float]:
        # float32 probabilities and float64 quantiles: any other mix misses the table's last bit
        return [quantile(float(p)) for p in torch.linspace(outermost(bits), 0.5, count + 1)[:-1]]

    below = [-q for q in side(half - 1)]
    levels = torch.tensor([*below, 0.0, *side(half)]).sort().values  # (K,)
    return levels / levels.abs().max()


def outermost(bits: int) -> float:
    """Return the largest probability that still has a finite level: halfway into the last cell.

    The mean over both sides of zero, in bitsandbytes' seven decimals.

    >>> outermost(4)
    0.9677083
    """
    count: int = 2**bits
    return round(1 - (1 / (count - 1) + 1 / count) / 4, 7)


def normal_float(bits: int) -> Tensor:
    """Return NF-k, the k-bit NormalFloat (QLoRA, Section 3): (2^k,) float32, k from 2.

    At k = 4 these are the 16 values of Appendix E and bitsandbytes' table. The paper's own recipe,
    Eq. 4, does not give them: it averages neighbouring quantiles at i / (2^k + 1), which are
    infinite at both ends, and its inner levels are not the table's either.
    """
    return asymmetric(NormalDist().inv_cdf, bits=bits)


def empirical(values: Tensor, *, bits: int) -> Tensor:
    """Return the code that given values use evenly: (2^bits,) float32, no exact zero.

    Each level is the mean of the quantiles at i / 2^k and (i + 1) / 2^k, as in Eq. 4 of the paper
    but for its 2^k + 1 parts: a sample has a smallest and a largest value, so that no end is
    infinite. The levels are divided by the largest magnitude among them. `values` are weights over
    their block's absmax, or of one scale.

    Raises ConfigError for values that are all zero, which have no scale.
    """
    edges = quantiles(values, torch.linspace(0, 1, 2**bits + 1, dtype=torch.float64))
    levels = ((edges[:-1] + edges[1:]) / 2).float()  # (2^bits,)
    largest = levels.abs().max()
    if not largest:
        raise ConfigError("all weights are zero, and a codebook of quantiles needs others")
    return levels / largest


def empirical_with_zero(values: Tensor, *, bits: int) -> Tensor:
    """Return the asymmetric construction over given values' magnitudes: zero is exactly a level.

    The magnitudes' quantiles take the place of the normal ones, so the values' distribution is
    taken to be symmetric. Raises ConfigError for values that are all zero.
    """
    magnitudes = values.detach().reshape(-1).abs()
    if not magnitudes.any():
        raise ConfigError("all weights are zero, and a codebook of quantiles needs others")

    def quantile(p: float) -> float:
        return float(quantiles(magnitudes, torch.tensor([2 * p - 1], dtype=torch.float64)))

    return asymmetric(quantile, bits=bits)


Floats = NDArray[np.float64]
LARGEST = 14.0  # no absmax of a block that fits a memory is larger: 1 - F(14) is 1e-44
NODES = 400  # of the Gauss-Legendre rule over the absmax
SETTLED = 1e-12  # of the levels, relative
BELOW = 6  # free levels below zero; one more above it


def af4(blocksize: int) -> Tensor:
    """Return the levels by the recipe behind the published ones: (16,) float32.

    At a block size of 64 they are the published ones to their eight decimals. The recipe treats
    the two sides apart, seven levels below zero and eight above it, and takes zero for the edge of
    the innermost cells and not for a level with a cell of its own: the innermost levels, -0.049 and
    0.043 at 64, are the medians of what lies between zero and the next edge. `af4_l1` does not.

    Raises ConfigError for a block size below 2, where every weight is its block's absmax.
    """
    return _levels(blocksize, zero_has_a_cell=False)


def af4_l1(blocksize: int) -> Tensor:
    """Return the levels of least mean absolute error among all with -1, 0 and 1: (16,) float32.

    Unlike in `af4`, what lies closer to zero than to the innermost levels counts as zero, so these
    levels stand farther out. Raises ConfigError as `af4` does.
    """
    return _levels(blocksize, zero_has_a_cell=True)


def scaled_cdf(blocksize: int) -> Callable[[Floats], Floats]:
    """Return G, the distribution of a scaled value that is not its block's absmax, on [-1, 1]."""
    absmax, density = _absmax_rule(blocksize)
    share = density / (2 * ndtr(absmax) - 1)

    def cdf(x: Floats) -> Floats:
        below = ndtr(np.multiply.outer(x, absmax)) - ndtr(-absmax)
        total: Floats = (below * share).sum(axis=-1)
        return total

    return cdf


def _absmax_rule(blocksize: int) -> tuple[Floats, Floats]:
    """Return nodes and weights that integrate over the absmax of a block of N(0, 1) weights."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    absmax = (nodes + 1) / 2 * LARGEST
    normal = np.exp(-(absmax**2) / 2) / np.sqrt(2 * np.pi)
    density = 2 * blocksize * normal * (2 * ndtr(absmax) - 1) ** (blocksize - 1)
    return absmax, density * weights * LARGEST / 2


@cache
def _levels(blocksize: int, *, zero_has_a_cell: bool) -> Tensor:
    if blocksize < 2:
        raise ConfigError(f"af4 has no levels for dtype.blocksize={blocksize}; use 2 or more")
    cdf = scaled_cdf(blocksize)

    def off_median(free: Floats) -> Floats:
        """Return how far each free level is from halving the mass of its cell: (13,)."""
        levels = _with_fixed(free)  # (16,)
        edges = (levels[:-1] + levels[1:]) / 2  # (15,)
        low, high = edges[:-1].copy(), edges[1:].copy()
        if not zero_has_a_cell:
            high[BELOW - 1] = low[BELOW + 1] = 0.0
        return np.delete(2 * cdf(levels[1:-1]) - cdf(low) - cdf(high), BELOW)

    even = np.concatenate([np.arange(1, 7) / 14, 0.5 + np.arange(1, 8) / 16])  # (13,)
    grid = np.linspace(-1, 1, 401)
    start = np.interp(even, cdf(grid), grid)  # quantiles at even steps each side of zero
    found = root(off_median, start, tol=SETTLED)
    assert found.success, f"the levels of af4 at {blocksize} did not settle: {found.message}"
    return torch.tensor(_with_fixed(found.x), dtype=torch.float32)


def _with_fixed(free: Floats) -> Floats:
    """Return -1, the levels below zero, 0, those above it and 1: (16,) of (13,)."""
    return np.concatenate([[-1.0], free[:BELOW], [0.0], free[BELOW:], [1.0]])


def integer(bits: int) -> Tensor:
    """Return the symmetric k-bit integers over their largest: 2^k - 1 levels.

    -2^(k-1) is left out, since it would have no partner: int4 is -7..7 over 7.
    """
    largest: int = 2 ** (bits - 1) - 1
    return torch.arange(-largest, largest + 1, dtype=torch.float32) / largest


def dynamic8() -> Tensor:
    """Return the signed 8-bit dynamic map that double quantization stores absmax in: 256 levels.

    Seven decades from 1e-6 to 1, the decade of 10^-k holding 2^(6-k) bin centres each side; then 0
    and 1 (not -1). The paper calls this type FP8; the released code uses this map.
    """
    decades = []
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)  # (2^power + 1,)
        decades.append(10 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2))
    positive = torch.cat(decades)  # (127,)
    return torch.cat([-positive.flip(0), torch.zeros(1), positive, torch.ones(1)])


BITS = range(2, 9)
# the same levels at any block size
FIXED: dict[str, Callable[[], Tensor]] = {
    **{f"int{bits}": partial(integer, bits) for bits in BITS},
    **{f"nf{bits}": partial(normal_float, bits) for bits in BITS},
    "fp4": fp4,
    "fp4_e2m1": fp4_e2m1,
    "fp4_e3m0": fp4_e3m0,
    "fp8_e4m3": fp8_e4m3,
    "fp8_e5m2": fp8_e5m2,
    "dynamic8": dynamic8,
}
# levels that follow the block size
SIZED: dict[str, Callable[[int], Tensor]] = {"af4": af4, "af4_l1": af4_l1}
CODEBOOKS = (*FIXED, *SIZED)


def codebook(name: str, *, blocksize: int | None = None) -> Tensor:
    """Return a data type's levels: (K,) float32, ascending, within [-1, 1].

    `blocksize` counts for the types in SIZED, which need it; the others have one set of levels.

    Raises ConfigError for a type without levels, and for one of SIZED without a block size.
    """
    if name in FIXED:
        return FIXED[name]()
    if name not in SIZED:
        raise ConfigError(
            f"dtype {name!r} has no codebook; there is one for {', '.join(CODEBOOKS)}"
        )
    if blocksize is None:
        raise ConfigError(f"the levels of dtype {name!r} depend on the block size; give one")
    return SIZED[name](blocksize)


def code_bits(book: Tensor) -> int:
    """Return the bits one stored code takes, packed: enough to tell the K levels apart.

    >>> [code_bits(codebook(name)) for name in ("int4", "nf4", "int8")]
    [4, 4, 8]
    """
    return (book.numel() - 1).bit_length()
