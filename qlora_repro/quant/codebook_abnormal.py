"""AbnormalFloat4: the levels of least absolute error for absmax-scaled normal weights.

Yoshida 2023 (arXiv 2306.06965): a normal weight over the absmax of its block of B is not normal.
One weight of the block is -1 or 1, and given the absmax m the others are independent normal weights
cut off at -m and m. The absmax has the density 2 B f(m) (2 F(m) - 1)^(B-1) with f and F those of
N(0, 1), so that the scaled value has an atom of 1 / 2B at each end and in between the distribution

    G(x) = integral of (F(x m) - F(-m)) / (2 F(m) - 1) over the density of m.

Levels of least expected absolute error are each the median of what rounds to them. -1, 0 and 1 are
held, and the atoms lie in the cells of -1 and 1, so the other levels depend on G alone.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
from scipy.special import ndtr
from torch import Tensor

from qlora_repro.errors import ConfigError

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
