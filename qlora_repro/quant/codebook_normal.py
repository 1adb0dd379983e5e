"""NormalFloat and other types made from the quantiles of what is to be stored."""

from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from qlora_repro.errors import ConfigError
from qlora_repro.quant.quantiles import quantiles


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
