"""Measuring as the pipeline calls it: each kind of record, and the function that makes it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from qlora_repro.config.schema import MeasureConfig
from qlora_repro.console import progress, say
from qlora_repro.errors import ConfigError
from qlora_repro.quant.codebooks import codebook
from qlora_repro.quant.error import sample
from qlora_repro.quant.quantiles import sram_errors
from qlora_repro.records import Codebook, Normality, QuantErrors, SramQuantiles
from qlora_repro.store.runs import Folder
from qlora_repro.weights import errors
from qlora_repro.weights.matrices import weights
from qlora_repro.weights.normality import normality
from qlora_repro.weights.summary import errors_table, normality_lines


def quant_errors(model: Any, cfg: MeasureConfig, run_id: str) -> Iterator[QuantErrors]:
    """Yield the errors of each type on synthetic values, then on the model's own weights."""
    grid = _grid(cfg)
    yield from errors.of_distributions(
        cfg.distributions, grid, blocks=cfg.blocks, seed=cfg.seed, run_id=run_id
    )
    yield from errors.of_weights(list(weights(model)), grid, run_id=run_id)


def codebooks(model: Any, cfg: MeasureConfig, run_id: str) -> Iterator[Codebook]:
    """Yield the levels of each type, and the optimal ones."""
    return errors.codebooks(
        cfg.distributions, _grid(cfg), blocks=cfg.blocks, seed=cfg.seed, run_id=run_id
    )


def normal_rows(model: Any, cfg: MeasureConfig, run_id: str) -> Iterator[Normality]:
    """Yield the test of each weight's rows; nothing when `measure.normality` is false."""
    found = list(weights(model)) if cfg.normality else []
    return normality(found, run_id=run_id, rows=cfg.rows, seed=cfg.seed)


def sram_quantiles(model: Any, cfg: MeasureConfig, run_id: str) -> Iterator[SramQuantiles]:
    """Yield the error of SRAM quantiles for every chunk size and number of chunks."""
    if not cfg.chunks or not cfg.counts:
        return
    for distribution in cfg.distributions:
        values = sample(
            distribution, blocks=max(cfg.counts), blocksize=max(cfg.chunks), seed=cfg.seed
        )
        for found in sram_errors(values, chunks=cfg.chunks, counts=cfg.counts):
            yield SramQuantiles(run_id=run_id, distribution=distribution, **asdict(found))


Make = Callable[[Any, MeasureConfig, str], Iterator[Any]]
# kind, which names the file -> the function that makes its records, cheap ones first
KINDS: dict[str, Make] = {
    "codebooks": codebooks,
    "sram_quantiles": sram_quantiles,
    "quant_errors": quant_errors,
    "normality": normal_rows,
}


def measure(folder: Folder, cfg: MeasureConfig, *, digest: str, load: Callable[[], Any]) -> None:
    """Write `<kind>-<digest>.jsonl` of each kind that the folder lacks, then show what it has.

    `load` returns the 16-bit model; it is called when something is missing. Raises ConfigError for
    settings that cannot be measured, before that.
    """
    check(cfg)
    for kind, make in KINDS.items():
        name = f"{kind}-{digest}.jsonl"
        if folder.has(name):
            say(f"{kind}: in the store, skipped")
            continue
        model = load()
        with progress(kind):
            found = list(make(model, cfg, folder.run_id))
        folder.write(name, found)
    say(errors_table(folder.read(f"quant_errors-{digest}.jsonl", QuantErrors)))
    for line in normality_lines(folder.read(f"normality-{digest}.jsonl", Normality)):
        say(line)


def check(cfg: MeasureConfig) -> None:
    """Refuse what cannot be measured, before a model is loaded; raises ConfigError."""
    for name in ("blocks", "sample", "rows"):
        value = getattr(cfg, name)
        if value is not None and value < 1:
            raise ConfigError(f"measure.{name} is {value}, and must be at least 1")
    for name in ("blocksizes", "chunks", "counts"):
        for value in getattr(cfg, name):
            if value < 2 - (name == "counts"):
                raise ConfigError(
                    f"measure.{name} has {value}, and must have whole numbers from "
                    f"{2 - (name == 'counts')} on"
                )
    for dtype in cfg.dtypes:
        for blocksize in cfg.blocksizes:
            codebook(dtype, blocksize=blocksize)


def _grid(cfg: MeasureConfig) -> errors.Grid:
    return errors.Grid(dtypes=cfg.dtypes, blocksizes=cfg.blocksizes, sample=cfg.sample)
