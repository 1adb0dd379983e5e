"""stages=[measure]: errors of data types, their levels, and how normal the weights are."""

from collections.abc import Callable, Iterator
from typing import Any

from qlora_repro.config.schema import MeasureConfig
from qlora_repro.console import progress, say
from qlora_repro.errors import ConfigError
from qlora_repro.manifest import describe_base_model
from qlora_repro.quant.codebooks import make_codebook
from qlora_repro.quant.error import measure_sram_errors, sample_weights
from qlora_repro.records import Normality, QuantErrors, SramQuantiles
from qlora_repro.reporting.stored_result import SKIPPED
from qlora_repro.session import CellRun
from qlora_repro.store.cell import MANIFEST, Cell
from qlora_repro.store.run_id import deciding_settings, stage_digest
from qlora_repro.weights.errors import (
    build_errors_table,
    iterate_linear_weights,
    list_codebooks,
    measure_distributions,
    measure_weights,
)
from qlora_repro.weights.normality import describe_normality, measure_normality


def measure_quant_errors(model: Any, cfg: MeasureConfig, run_id: str) -> Iterator[QuantErrors]:
    """Yield the errors of each type on synthetic values, then on the model's own weights."""
    yield from measure_distributions(cfg, run_id=run_id)
    yield from measure_weights(list(iterate_linear_weights(model)), cfg, run_id=run_id)


def list_normality_tests(model: Any, cfg: MeasureConfig, run_id: str) -> Iterator[Normality]:
    """Yield the test of each weight's rows; nothing when `measure.normality` is false."""
    weights = list(iterate_linear_weights(model)) if cfg.normality else []
    return measure_normality(weights, run_id=run_id, rows=cfg.rows, seed=cfg.seed)


def measure_sram_quantiles(model: Any, cfg: MeasureConfig, run_id: str) -> Iterator[SramQuantiles]:
    """Yield the error of SRAM quantiles for every chunk size and number of chunks."""
    if not cfg.chunks or not cfg.counts:
        return
    blocks, size = max(cfg.counts), max(cfg.chunks)
    for source in cfg.distributions:
        values = sample_weights(source, blocks=blocks, blocksize=size, seed=cfg.seed)
        yield from measure_sram_errors(
            values, chunks=cfg.chunks, counts=cfg.counts, run_id=run_id, distribution=source
        )


MakeRecords = Callable[[Any, MeasureConfig, str], Iterator[Any]]
# kind, which names the file -> the function that makes its records; cheap ones first
MEASUREMENTS: dict[str, MakeRecords] = {
    "codebooks": lambda model, cfg, run_id: list_codebooks(cfg, run_id=run_id),
    "sram_quantiles": measure_sram_quantiles,
    "quant_errors": measure_quant_errors,
    "normality": list_normality_tests,
}


def check_measure(cell: Cell) -> None:
    """Refuse a quantized model and settings that nothing can be measured with; ConfigError."""
    if cell.cfg.quantized:
        raise ConfigError(
            f"stages has measure, which looks at 16-bit weights, and dtype is "
            f"{cell.cfg.dtype.name}; use dtype=bf16 or dtype=fp32, and name types in measure.dtypes"
        )
    _check_settings(cell.cfg.measure)


def _check_settings(cfg: MeasureConfig) -> None:
    for name in ("blocksizes", "chunks", "counts"):
        for value in getattr(cfg, name):
            if value < 2 - (name == "counts"):
                raise ConfigError(
                    f"measure.{name} has {value}, and must have whole numbers from "
                    f"{2 - (name == 'counts')} on"
                )
    for dtype in cfg.dtypes:
        for blocksize in cfg.blocksizes:
            make_codebook(dtype, blocksize=blocksize)


def run_measure(run: CellRun, *, tuned: bool) -> None:
    """Write `<kind>-<digest>.jsonl` of each kind that the base's folder lacks; show them all."""
    if tuned:
        return
    cell = run.cell
    digest = stage_digest(cell.cfg, "measure")
    with cell.base_locked():
        for kind, measure in MEASUREMENTS.items():
            name = f"{kind}-{digest}.jsonl"
            if cell.base.has(name):
                say(f"{kind}: {SKIPPED}")
                continue
            model = _load_model(run, digest)
            with progress(kind):
                records = list(measure(model, cell.cfg.measure, cell.base.run_id))
            cell.base.write_records(name, records)
    say(build_errors_table(cell.base.read_records(f"quant_errors-{digest}.jsonl", QuantErrors)))
    for line in describe_normality(cell.base.read_records(f"normality-{digest}.jsonl", Normality)):
        say(line)


def _load_model(run: CellRun, digest: str) -> Any:
    """Return the 16-bit model; note in the base's folder what it is and what is measured."""
    cell, loaded = run.cell, run.session.base()
    if not cell.base.has(MANIFEST):
        cell.base.write_json(MANIFEST, describe_base_model(cell.cfg, loaded).to_json())
    cell.base.write_json(f"settings-{digest}.json", deciding_settings(cell.cfg, "measure"))
    return loaded.model
