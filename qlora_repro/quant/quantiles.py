"""Quantiles of weights: exact ones, and SRAM ones, cheap means over chunks of a fixed size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class QuantileError:
    """How far SRAM quantiles of a sample are from its exact ones, in the sample's own units."""

    chunk: int  # values in a chunk
    count: int  # chunks averaged
    levels: int  # probabilities compared, evenly spaced, both ends left out
    mean: float  # of the absolute differences
    largest: float  # of the absolute differences
    outward: float  # mean by which SRAM quantiles lie farther from the median; negative: nearer


def quantiles(values: Tensor, probabilities: Tensor) -> Tensor:
    """Return exact quantiles of N values at (P,) probabilities: (P,) float64.

    Between two order statistics it interpolates linearly, as numpy's default does. Any N goes;
    torch.quantile stops at 16 million.

    Raises ValueError for no values, for NaN, and for probabilities outside of [0, 1].
    """
    flat = _checked(values, probabilities)
    return _of_sorted(flat.sort().values[None], probabilities)[0]


def sram_quantiles(values: Tensor, probabilities: Tensor, *, chunk: int) -> Tensor:
    """Return the mean over chunks of each chunk's exact quantiles: (P,) float64.

    A chunk fits the fast memory of one processor, which makes this cheap (Dettmers et al. 2022,
    the estimate that QLoRA, Section 2, builds on). A short last chunk is left out. The mean of
    chunk quantiles settles at the expected order statistic of a chunk and not at the quantile: in
    the tails, near the ends of [0, 1], it stays nearer the median however many chunks there are.

    Raises ValueError as `quantiles` does, and when there is not one whole chunk.
    """
    flat = _checked(values, probabilities)
    whole = flat.numel() // chunk if chunk > 0 else 0
    if not whole:
        raise ValueError(f"{flat.numel()} values do not fill a chunk of {chunk}")
    chunks = flat[: whole * chunk].view(whole, chunk).sort(dim=1).values  # (C, chunk)
    return _of_sorted(chunks, probabilities).mean(dim=0)


def sram_errors(
    values: Tensor, *, chunks: Sequence[int], counts: Sequence[int], levels: int = 15
) -> tuple[QuantileError, ...]:
    """Compare SRAM with exact quantiles for every chunk size and number of chunks that fits.

    Both are of the same values, the first chunk * count, at `levels` probabilities spaced evenly
    inside of (0, 1). Values should be in random order: chunks are cut as they come.
    """
    flat = values.detach().reshape(-1)
    inner = torch.linspace(0, 1, levels + 2, dtype=torch.float64)[1:-1]
    rows = []
    for chunk in chunks:
        for count in counts:
            if chunk * count > flat.numel():
                continue
            used = flat[: chunk * count]
            exact = quantiles(used, inner)
            change = sram_quantiles(used, inner, chunk=chunk) - exact
            median = quantiles(used, torch.tensor([0.5], dtype=torch.float64))
            row = QuantileError(
                chunk=chunk,
                count=count,
                levels=levels,
                mean=float(change.abs().mean()),
                largest=float(change.abs().max()),
                outward=float((change * (exact - median).sign()).mean()),
            )
            rows.append(row)
    return tuple(rows)


def _checked(values: Tensor, probabilities: Tensor) -> Tensor:
    flat = values.detach().reshape(-1)
    if not flat.numel():
        raise ValueError("there are no values to take quantiles of")
    if bad := int(flat.isnan().sum()):
        raise ValueError(f"{bad} of {flat.numel()} values are NaN")
    if bool(((probabilities < 0) | (probabilities > 1)).any()):
        raise ValueError(f"probabilities are {probabilities.tolist()}, and must be in [0, 1]")
    return flat


def _of_sorted(rows: Tensor, probabilities: Tensor) -> Tensor:
    """Return (R, P) float64 quantiles of (R, N) ascending rows."""
    place = probabilities.to(rows.device, torch.float64) * (rows.shape[1] - 1)  # (P,)
    low = place.floor().long()
    high = (low + 1).clamp(max=rows.shape[1] - 1)
    below, above = rows[:, low].double(), rows[:, high].double()  # (R, P)
    return below + (above - below) * (place - low)
