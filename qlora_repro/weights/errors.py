"""What each data type loses on synthetic and on real weights, beside the best levels there are."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from qlora_repro.config.registry import WITHOUT_DOUBLE_QUANT
from qlora_repro.config.schema import MeasureConfig
from qlora_repro.console import right_aligned
from qlora_repro.lora.targets import layer_number, role_of
from qlora_repro.quant.blockwise import MIN_ABSMAX
from qlora_repro.quant.codebooks import depends_on_blocksize, make_codebook
from qlora_repro.quant.error import fit_lloyd_max, measure_error, sample_weights
from qlora_repro.quant.linear_layers import find_quantizable_layers
from qlora_repro.records import Codebook, QuantErrors

MAX_FITTED_LEVELS = 16  # fitting more takes long, and 8 bits lose little


@dataclass(frozen=True, kw_only=True)
class LinearWeight:
    """One linear layer's weight: O outputs (hidden units), I inputs."""

    name: str
    layer: int | None
    role: str  # "other" where the family gives none
    values: Tensor  # (O, I)

    def numpy(self) -> NDArray[np.float64]:
        """Return a copy for scipy: (O, I) float64."""
        return self.values.detach().cpu().double().numpy()


def iterate_linear_weights(model: Any) -> Iterator[LinearWeight]:
    """Yield the weights that are quantized, in the model's order; a Conv1D's as (out, in)."""
    for name in find_quantizable_layers(model):
        module = model.get_submodule(name)
        yield LinearWeight(
            name=name,
            layer=layer_number(name),
            role=role_of(model.config.model_type, name) or "other",
            values=module.weight.T if isinstance(module, Conv1D) else module.weight,
        )


def count_fitted_levels(cfg: MeasureConfig, blocksize: int) -> list[int]:
    """Return the numbers of levels of the types for which optimal levels are fitted."""
    counts = {count_levels(dtype, blocksize) for dtype in cfg.dtypes}
    return sorted(count for count in counts if count <= MAX_FITTED_LEVELS)


@cache
def count_levels(dtype: str, blocksize: int) -> int:
    """Return how many numbers a type tells apart.

    >>> count_levels("nf4", 64), count_levels("fp4", 64)
    (16, 15)
    """
    return int(make_codebook(dtype, blocksize=blocksize).unique().numel())


def measure_weights(
    weights: Sequence[LinearWeight], cfg: MeasureConfig, *, run_id: str
) -> Iterator[QuantErrors]:
    """Yield a record a weight, type and block size."""
    for weight in weights:
        names = {"source": "weights", "name": weight.name, "layer": weight.layer}
        for size in cfg.blocksizes:
            values = weight.values
            yield from _measure_types(values, size, cfg, **names, role=weight.role, run_id=run_id)


def measure_distributions(cfg: MeasureConfig, *, run_id: str) -> Iterator[QuantErrors]:
    """Yield a record a distribution, type and block size, of `cfg.blocks` blocks each."""
    for source in cfg.distributions:
        names = {"source": source, "name": "", "layer": None, "role": None}
        for size in cfg.blocksizes:
            values = sample_weights(source, blocks=cfg.blocks, blocksize=size, seed=cfg.seed)
            yield from _measure_types(values, size, cfg, **names, run_id=run_id)


def list_codebooks(cfg: MeasureConfig, *, run_id: str) -> Iterator[Codebook]:
    """Yield each type's own levels, then the optimal ones of as many levels a distribution."""
    for dtype in cfg.dtypes:
        for size in cfg.blocksizes if depends_on_blocksize(dtype) else (None,):
            levels = make_codebook(dtype, blocksize=size).unique().tolist()
            yield Codebook(run_id=run_id, dtype=dtype, fitted=None, blocksize=size, levels=levels)
    for source in cfg.distributions:
        for size in cfg.blocksizes:
            values = sample_weights(source, blocks=cfg.blocks, blocksize=size, seed=cfg.seed)
            scaled = scale_by_absmax(values, blocksize=size)
            for count in count_fitted_levels(cfg, size):
                yield Codebook(
                    run_id=run_id,
                    dtype=f"optimum_{count}",
                    fitted=source,
                    blocksize=size,
                    levels=fit_optimal_levels(scaled, count, sample=cfg.sample).tolist(),
                )


def scale_by_absmax(weight: Tensor, *, blocksize: int) -> Tensor:
    """Return the values of full blocks over their block's absmax: (N,) float32.

    A short last block is left out.
    """
    flat = weight.detach().reshape(-1)
    blocks = flat[: flat.numel() // blocksize * blocksize].reshape(-1, blocksize).float()  # (S, B)
    return (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp_min(MIN_ABSMAX)).reshape(-1)


def fit_optimal_levels(scaled: Tensor, count: int, *, sample: int) -> Tensor:
    """Return the Lloyd-Max levels of (N,) values, fitted to about `sample` evenly spread ones.

    Of fewer distinct values than levels, each is its own level.
    """
    step = max(1, scaled.numel() // sample)
    if step > 1:
        step += 1 - step % 2  # odd: an even step would meet the same positions of each block
    values = scaled[::step]
    distinct = values.unique()
    return fit_lloyd_max(values, levels=count).to(scaled) if len(distinct) >= count else distinct


def mean_squared_error(scaled: Tensor, book: Tensor) -> float:
    """Return the mean squared distance of (N,) values to the nearest of ascending levels."""
    edges = (book[:-1] + book[1:]) / 2
    nearest = book[torch.bucketize(scaled, edges)]
    return float((scaled - nearest).double().square().mean())


def _measure_types(
    values: Tensor, blocksize: int, cfg: MeasureConfig, **names: Any
) -> Iterator[QuantErrors]:
    """Yield a record a type; `names` are what the record says of where the values are from."""
    scaled = scale_by_absmax(values, blocksize=blocksize)
    optimum = {
        count: mean_squared_error(scaled, fit_optimal_levels(scaled, count, sample=cfg.sample))
        for count in count_fitted_levels(cfg, blocksize)
        if scaled.numel()
    }
    for dtype in cfg.dtypes:
        levels = count_levels(dtype, blocksize)
        for dq in (False,) if dtype in WITHOUT_DOUBLE_QUANT else (False, True):
            about: dict[str, Any] = {"dtype": dtype, "blocksize": blocksize, "dq": dq}
            error = asdict(measure_error(values, **about))
            best = optimum.get(levels)
            yield QuantErrors(**names, **about, **error, levels=levels, optimum=best)


def build_errors_table(rows: Sequence[QuantErrors]) -> Table:
    """Return a row a type and block size: its errors by source, weights averaged by their size.

    Errors are mean squares in units of absmax, in thousandths, each with its ratio to the optimum
    of as many levels where that is known.
    """
    sources = list(dict.fromkeys(row.source for row in rows))
    title = "mean squared error, 1e-3 absmax^2 (over the optimum's)"
    table = Table("type", "block", *right_aligned(*sources), title=title)
    for dtype, dq, blocksize in dict.fromkeys((row.dtype, row.dq, row.blocksize) for row in rows):
        same = [row for row in rows if (row.dtype, row.dq, row.blocksize) == (dtype, dq, blocksize)]
        cells = [_format_error([row for row in same if row.source == source]) for source in sources]
        table.add_row(dtype + (" + dq" if dq else ""), str(blocksize), *cells)
    return table


def _format_error(rows: Sequence[QuantErrors]) -> str:
    n = sum(row.n for row in rows)
    if not n:
        return "-"
    mse = sum(row.mse * row.n for row in rows) / n
    optima = [row.optimum * row.n for row in rows if row.optimum is not None]
    best = sum(optima) if len(optima) == len(rows) else 0.0
    return f"{1e3 * mse:.3f}" + (f" ({mse * n / best:.2f})" if best else "")
