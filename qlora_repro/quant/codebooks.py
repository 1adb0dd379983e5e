"""The levels of each data type: what a code means before its block's absmax scales it.

`make_codebook` returns a type's levels by its name. Floating-point types are all their numbers over
the largest, NormalFloat (QLoRA, Section 3) comes from quantiles of the normal distribution, and
AbnormalFloat4 (Yoshida 2023, arXiv 2306.06965) from the distribution of absmax-scaled weights.
"""

from collections.abc import Callable
from functools import cache
from inspect import signature
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
from scipy.special import ndtr
from torch import Tensor

from qlora_repro.config.registry import DATA_TYPES, import_function, is_function_name
from qlora_repro.errors import ConfigError

Floats = NDArray[np.float64]
MAX_ABSMAX = 14.0  # no absmax of a block that fits a memory is larger: 1 - F(14) is 1e-44
QUADRATURE_NODES = 400  # of the Gauss-Legendre rule over the absmax
ROOT_TOLERANCE = 1e-12  # of the levels, relative
LEVELS_BELOW_ZERO = 6  # free levels below zero; one more above it


def _mirror_levels(positive: Tensor) -> Tensor:
    """Return levels -p..., 0, p... of ascending positive levels, the largest scaled to 1."""
    positive = positive / positive.max()
    return torch.cat([-positive.flip(0), torch.zeros(1), positive])


def minifloat_levels(exponent: int, mantissa: int, *, bias: int, reserved: int = 0) -> Tensor:
    """Return the levels of a sign, exponent bits and mantissa bits: (K,) float32, zero once.

    An exponent field of zero holds the subnormals. `reserved` magnitudes at the top stand for
    infinity and NaN and hold no number.
    """
    steps = 2**mantissa
    code = torch.arange(1, 2 ** (exponent + mantissa) - reserved)  # magnitudes above zero
    field, fraction = code // steps, (code % steps) / steps
    implicit_bit = (field > 0).float()  # the hidden one that a subnormal lacks
    return _mirror_levels(torch.exp2(field.clamp(min=1).float() - bias) * (implicit_bit + fraction))


def fp4_levels() -> Tensor:
    """Return bitsandbytes' FP4: +-{0, 0.0625, 2, 3, 4, 6, 8, 12} / 12, 16 codes and 15 numbers.

    Two exponent bits and one mantissa bit, but 0.0052 where OCP's E2M1 has its subnormal 1/12. Zero
    has a code for each sign. bitsandbytes sorts 0.0 before -0.0, so that a weight which rounds to
    zero from above reads -0.0, and so it does here.
    """
    positive = torch.tensor([0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]) / 12
    return torch.cat([-positive.flip(0), torch.tensor([0.0, -0.0]), positive])


def fp4_e2m1_levels() -> Tensor:
    """Return OCP's E2M1: two exponent bits with bias 1, one mantissa bit; +-{0, 0.5 ... 6} / 6."""
    return minifloat_levels(2, 1, bias=1)


def fp4_e3m0_levels() -> Tensor:
    """Return E3M0: three exponent bits and no mantissa, seven powers of two each side of zero."""
    return minifloat_levels(3, 0, bias=3)


def fp8_e4m3_levels() -> Tensor:
    """Return OCP's E4M3 over its largest, 448: 253 levels, infinity given up for one more octave.

    Where QLoRA (Section 3) says that double quantization stores its constants in FP8, this is the
    type that the name suggests; the released code uses `dynamic8`.
    """
    return minifloat_levels(4, 3, bias=7, reserved=1)


def fp8_e5m2_levels() -> Tensor:
    """Return OCP's E5M2 over its largest, 57344: 247 levels, with infinity as IEEE 754 has it."""
    return minifloat_levels(5, 2, bias=15, reserved=4)


def outermost_probability(bits: int) -> float:
    """Return the largest probability that still has a finite level: halfway into the last cell.

    The mean over both sides of zero, in bitsandbytes' seven decimals.

    >>> outermost_probability(4)
    0.9677083
    """
    count: int = 2**bits
    return round(1 - (1 / (count - 1) + 1 / count) / 4, 7)


def normal_float_levels(bits: int) -> Tensor:
    """Return NF-k, the k-bit NormalFloat (QLoRA, Section 3): (2^k,) float32, k from 2.

    Normal quantiles at evenly spaced probabilities from `outermost_probability` down to 1/2, half
    of the levels above zero and one less below it, where the mirror image of the upper half stands;
    1/2 itself gives the zero that both sides share. All are divided by the largest.

    At k = 4 these are the 16 values of Appendix E and bitsandbytes' table. The paper's own recipe,
    Eq. 4, does not give them: it averages neighbouring quantiles at i / (2^k + 1), which are
    infinite at both ends, and its inner levels are not the table's either.
    """
    half = 2 ** (bits - 1)

    def quantiles(count: int) -> list[float]:
        # float32 probabilities and float64 quantiles: any other mix misses the table's last bit
        probabilities = torch.linspace(outermost_probability(bits), 0.5, count + 1)[:-1]
        return [NormalDist().inv_cdf(float(p)) for p in probabilities]

    below = [-q for q in quantiles(half - 1)]
    levels = torch.tensor([*below, 0.0, *quantiles(half)]).sort().values  # (2^k,)
    return levels / levels.abs().max()


def af4_levels(blocksize: int) -> Tensor:
    """Return the levels by the recipe behind the published ones: (16,) float32.

    At a block size of 64 they are the published ones to their eight decimals. The recipe treats
    the two sides apart, seven levels below zero and eight above it, and takes zero for the edge of
    the innermost cells and not for a level with a cell of its own: the innermost levels, -0.049 and
    0.043 at 64, are the medians of what is between zero and the next edge. `af4_l1` does not.

    Raises:
        ConfigError: the block size is below 2, where every weight is its block's absmax.
    """
    return _abnormal_float_levels(blocksize, zero_has_a_cell=False)


def af4_l1_levels(blocksize: int) -> Tensor:
    """Return the levels of least mean absolute error among all with -1, 0 and 1: (16,) float32.

    Unlike in `af4`, what is closer to zero than to the innermost levels counts as zero, so these
    levels are farther out. It raises what `af4` raises.
    """
    return _abnormal_float_levels(blocksize, zero_has_a_cell=True)


def scaled_cdf(blocksize: int) -> Callable[[Floats], Floats]:
    """Return G, the distribution of a scaled value that is not its block's absmax, on [-1, 1].

    A normal weight over the absmax of its block of B is not normal (Yoshida 2023). One weight of
    the block is -1 or 1, and given the absmax m the others are independent normal weights cut off
    at -m and m. The absmax has the density 2 B f(m) (2 F(m) - 1)^(B-1) with f and F those of
    N(0, 1), so that the scaled value has an atom of 1 / 2B at each end and in between

        G(x) = integral of (F(x m) - F(-m)) / (2 F(m) - 1) over the density of m.

    Levels of least expected absolute error are each the median of what rounds to them. -1, 0 and 1
    are fixed, and the atoms are in the cells of -1 and 1, so the other levels depend on G alone.
    """
    absmax, density = _absmax_rule(blocksize)
    share = density / (2 * ndtr(absmax) - 1)

    def cdf(x: Floats) -> Floats:
        below = ndtr(np.multiply.outer(x, absmax)) - ndtr(-absmax)
        total: Floats = (below * share).sum(axis=-1)
        return total

    return cdf


def _absmax_rule(blocksize: int) -> tuple[Floats, Floats]:
    """Return nodes and weights that integrate over the absmax of a block of N(0, 1) weights."""
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    absmax = (nodes + 1) / 2 * MAX_ABSMAX
    normal = np.exp(-(absmax**2) / 2) / np.sqrt(2 * np.pi)
    density = 2 * blocksize * normal * (2 * ndtr(absmax) - 1) ** (blocksize - 1)
    return absmax, density * weights * MAX_ABSMAX / 2


@cache
def _abnormal_float_levels(blocksize: int, *, zero_has_a_cell: bool) -> Tensor:
    if blocksize < 2:
        raise ConfigError(f"af4 has no levels for dtype.blocksize={blocksize}; use 2 or more")
    cdf = scaled_cdf(blocksize)

    def off_median(free: Floats) -> Floats:
        """Return how far each free level is from halving the mass of its cell: (13,)."""
        levels = _with_fixed_levels(free)  # (16,)
        edges = (levels[:-1] + levels[1:]) / 2  # (15,)
        low, high = edges[:-1].copy(), edges[1:].copy()
        if not zero_has_a_cell:
            high[LEVELS_BELOW_ZERO - 1] = low[LEVELS_BELOW_ZERO + 1] = 0.0
        return np.delete(2 * cdf(levels[1:-1]) - cdf(low) - cdf(high), LEVELS_BELOW_ZERO)

    even = np.concatenate([np.arange(1, 7) / 14, 0.5 + np.arange(1, 8) / 16])  # (13,)
    grid = np.linspace(-1, 1, 401)
    start = np.interp(even, cdf(grid), grid)  # quantiles at even steps each side of zero
    solution = root(off_median, start, tol=ROOT_TOLERANCE)
    assert solution.success, f"the levels of af4 at {blocksize} did not settle: {solution.message}"
    return torch.tensor(_with_fixed_levels(solution.x), dtype=torch.float32)


def _with_fixed_levels(free: Floats) -> Floats:
    """Return -1, the levels below zero, 0, those above it and 1: (16,) of (13,)."""
    return np.concatenate(
        [[-1.0], free[:LEVELS_BELOW_ZERO], [0.0], free[LEVELS_BELOW_ZERO:], [1.0]]
    )


def integer_levels(bits: int) -> Tensor:
    """Return the symmetric k-bit integers over their largest: 2^k - 1 levels.

    -2^(k-1) is left out, since it would have no partner: int4 is -7..7 over 7.
    """
    largest: int = 2 ** (bits - 1) - 1
    return torch.arange(-largest, largest + 1, dtype=torch.float32) / largest


def dynamic8_levels() -> Tensor:
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


def make_codebook(name: str, *, blocksize: int | None = None) -> Tensor:
    """Return a data type's levels: (K,) float32, ascending, within [-1, 1].

    Args:
        name: A quantized type of `registry.DATA_TYPES`, `dynamic8`, or a function of the user's
            own as a checked configuration names it.
        blocksize: Needed where `depends_on_blocksize`; the other types have one set of levels.

    Raises:
        ConfigError: For a type without levels, a missing block size, and a user's levels that are
            none.
    """
    if name == "dynamic8":
        return dynamic8_levels()
    if is_function_name(name):
        return _user_levels(name, blocksize)
    if name not in DATA_TYPES or DATA_TYPES[name].levels is None:
        known = ", ".join([*(n for n, dtype in DATA_TYPES.items() if dtype.levels), "dynamic8"])
        raise ConfigError(f"dtype {name!r} has no codebook; there is one for {known}")
    levels: Tensor = _call_levels(name, bits=DATA_TYPES[name].bits, blocksize=blocksize)
    return levels


def depends_on_blocksize(name: str) -> bool:
    """Whether a data type's levels follow the block size."""
    return "blocksize" in signature(_levels_function(name)).parameters


def _levels_function(name: str) -> Callable[..., Any]:
    return import_function(name if is_function_name(name) else str(DATA_TYPES[name].levels))


def _call_levels(name: str, **known: int | None) -> Any:
    """Call a type's function with those of the known arguments that it takes."""
    function = _levels_function(name)
    taken = signature(function).parameters
    arguments = {key: value for key, value in known.items() if key in taken}
    if arguments.get("blocksize", 0) is None:
        raise ConfigError(f"the levels of dtype {name!r} depend on the block size; give one")
    return function(**arguments)


@cache
def _user_levels(name: str, blocksize: int | None) -> Tensor:
    """Return the levels of a user's function, in the form that all others have."""
    levels = torch.as_tensor(_call_levels(name, blocksize=blocksize), dtype=torch.float32)
    if levels.ndim != 1 or len(levels) < 2 or not (levels.diff() > 0).all():
        raise ConfigError(f"{name} must return two or more levels in ascending order")
    if not levels.abs().max() <= 1:
        raise ConfigError(f"{name} returned levels outside [-1, 1]")
    return levels


def count_code_bits(book: Tensor) -> int:
    """Return the bits one stored code takes, packed: enough to tell the K levels apart.

    >>> [count_code_bits(make_codebook(name)) for name in ("int4", "nf4", "int8")]
    [4, 4, 8]
    """
    return (book.numel() - 1).bit_length()
