"""stages=[measure] and eval.reference on the tiny model: what the store holds afterwards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.records import Answer, Codebook, Metric, Normality, QuantErrors, SramQuantiles
from qlora_repro.store.runs import RunFolder

Configured = Callable[..., RunConfig]
UNTUNED = ("model=tiny", "train=none", "eval=none")
SMALL = (
    *UNTUNED,
    "dtype=bf16",
    "stages=[measure]",
    "measure.blocks=64",
    "measure.sample=2048",
    "measure.rows=8",
    "measure.chunks=[32,64]",
    "measure.counts=[1,4]",
    "measure.distributions=[normal]",
)
READING = ("stages=[eval]", "eval.perplexity_window=32", "eval.reference=true")


def start(configured: Configured, root: Path, *words: str) -> RunFolder:
    found = pipeline.run_stages(configured(*words, f"results_dir={root}"))
    return RunFolder(found.folder, found.folder.name.rpartition("-")[2])


def named(folder: RunFolder, kind: str) -> str:
    (found,) = folder.path.glob(f"{kind}-*.jsonl")
    return found.name


def test_a_quantized_model_is_not_measured(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16-bit weights, and dtype is nf4; use dtype=bf16"):
        start(configured, tmp_path, *UNTUNED, "stages=[measure]")
    assert not list(tmp_path.glob("tiny-*"))


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("measure.dtypes=[nf9]", "dtype 'nf9' has no codebook"),
        ("measure.rows=0", "measure.rows is 0, and must be at least 1"),
        ("measure.blocksizes=[1]", r"measure.blocksizes has 1, and must have whole numbers from 2"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(
    word: str, match: str, configured: Configured, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=match):
        start(configured, tmp_path, *SMALL, word)
    assert not list(tmp_path.glob("tiny-*"))


def test_everything_is_measured_once_and_shown(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = start(configured, tmp_path, *SMALL)
    errors = folder.read_records(named(folder, "quant_errors"), QuantErrors)
    assert {row.source for row in errors} == {"normal", "weights"}
    of_weights = [row for row in errors if row.source == "weights" and row.dtype == "nf4"]
    assert {(row.layer, row.role) for row in of_weights} >= {(0, "q"), (1, "down")}
    assert {row.run_id for row in errors} == {folder.run_id}
    books = folder.read_records(named(folder, "codebooks"), Codebook)
    assert {book.dtype for book in books} >= {"nf4", "int8", "optimum_16"}
    rows = folder.read_records(named(folder, "normality"), Normality)
    assert {row.source for row in rows} == {"weights", "normal"}
    quantiles = folder.read_records(named(folder, "sram_quantiles"), SramQuantiles)
    assert {(row.chunk, row.count) for row in quantiles} == {(32, 1), (32, 4), (64, 1), (64, 4)}
    first = capsys.readouterr().out
    assert "mean squared error" in first
    assert "normality, weights" in first
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    start(configured, tmp_path, *SMALL)
    assert "quant_errors: in the store, skipped" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()} == before


def test_a_quantized_model_is_compared_with_the_16_bit_one_and_a_16_bit_one_is_not(
    configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("If all birds are animals, then no birds are stones. " * 4)
    words = (*UNTUNED, *READING, f"eval.perplexity_file={tmp_path / 'text'}")
    means = {}
    for dtype in (
        ("dtype=int4", "dq=false"),
        ("dtype=nf4", "dtype.backend=simulated"),
        ("dtype=bf16", "dq=false"),
    ):
        folder = start(configured, tmp_path / "results", *words, *dtype)
        metrics = {m.name: m for m in folder.read_records(named(folder, "metrics"), Metric)}
        answers = folder.read_records(named(folder, "answers"), Answer)
        means[dtype[0]] = {name: metric.value for name, metric in metrics.items()}
        for name in metrics.keys() - {"perplexity"}:
            values = [a.value for a in answers if a.name == name]
            assert metrics[name].value == pytest.approx(sum(values) / len(values))
    assert means["dtype=bf16"].keys() == {"perplexity", "nats_per_token"}
    assert 0 < means["dtype=nf4"]["kl"] < means["dtype=int4"]["kl"]
    assert means["dtype=nf4"]["same_top"] < 1
