"""What is still to run, and how long it took cells like it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.remaining_work import estimate_remaining_work, estimate_training_seconds
from qlora_repro.store.runs import open_store

Configured = Callable[..., RunConfig]


def earlier(root: Path, name: str, cfg: RunConfig, *, stage: str, seconds: float) -> None:
    """Leave what a stage of an earlier cell put on record."""
    origin = {"stage": stage, "seconds": seconds, "config": asdict(cfg), "packages": {}}
    open_store(root).folder(name, "0").write_json(f"origin-{stage}.json", origin)


def test_training_is_scaled_by_its_rows_and_scores_by_nothing(
    configured: Configured, tmp_path: Path
) -> None:
    where = f"results_dir={tmp_path}"
    cfg = configured("model=tiny", where, "train.max_steps=100", "seed=9")
    assert estimate_remaining_work(cfg).measured_seconds is None
    assert (
        estimate_remaining_work(cfg)
        .describe()
        .endswith("without plan.tflops: no earlier cell is like it")
    )
    for name, steps, seconds in (("a", 10, 20.0), ("b", 20, 80.0), ("c", 10, 30.0)):
        past = configured("model=tiny", where, f"train.max_steps={steps}")
        earlier(tmp_path, name, past, stage="train", seconds=seconds)
        earlier(tmp_path, name, past, stage="0123", seconds=7.0)
    found = estimate_remaining_work(cfg)
    assert found.stages == ["training", "scores before tuning", "scores after tuning"]
    assert found.measured_seconds == pytest.approx(100 * 3.0 + 2 * 7.0)  # 2, 4 and 3 s a step
    other = configured("model=tiny", where, "train.max_steps=100", "eval.n=5")
    assert estimate_remaining_work(other).measured_seconds is None


def test_cells_of_the_same_data_type_count_alone_where_there_are_any(
    configured: Configured, tmp_path: Path
) -> None:
    where = f"results_dir={tmp_path}"
    for name, seconds in (("bf16", 10.0), ("nf4", 50.0)):
        past = configured("model=tiny", where, f"dtype={name}", "train.max_steps=10")
        earlier(tmp_path, name, past, stage="train", seconds=seconds)
        earlier(tmp_path, name, past, stage="0123", seconds=0.0)
    assert (
        estimate_remaining_work(
            configured("model=tiny", where, "train.max_steps=10")
        ).measured_seconds
        == 50
    )
    fp4 = configured("model=tiny", where, "train.max_steps=10", "dtype=fp4")
    assert estimate_remaining_work(fp4).measured_seconds == 30


def test_what_no_earlier_cell_tells_is_estimated_from_its_operations(
    configured: Configured, tmp_path: Path
) -> None:
    words = ("model=llama_7b", "data=alpaca", f"results_dir={tmp_path}", "stages=[plan]")
    cfg = configured(*words, "eval=mmlu", "plan.tflops=600", "plan.usd_per_hour=2")
    left = estimate_remaining_work(cfg)
    seconds = estimate_training_seconds(cfg)
    assert left.measured_seconds is None
    assert left.estimated_seconds == seconds
    assert left.unestimated == ["scores before tuning", "scores after tuning"]
    assert seconds is not None
    text = left.describe(2)
    assert f"about {seconds / 3600:.1f} GPU-hours, {seconds / 1800:,.0f} USD: an estimate" in text
    assert text.endswith("scores after tuning (plan.score_tokens=N counts them)")
    whole = estimate_remaining_work(
        configured(*words, "eval=mmlu", "plan.tflops=600", "plan.score_tokens=10000000")
    )
    assert whole.unestimated == []
    assert whole.estimated_seconds is not None
    assert whole.estimated_seconds > seconds


def test_an_earlier_cell_takes_the_place_of_the_estimate(
    configured: Configured, tmp_path: Path
) -> None:
    words = ("model=llama_7b", "data=alpaca", f"results_dir={tmp_path}", "eval=mmlu")
    cfg = configured(*words, "plan.tflops=600")
    past = configured(*words, "train.max_steps=10", "train.batch_size=16")
    earlier(tmp_path, "a", past, stage="train", seconds=160.0)
    left = estimate_remaining_work(cfg)
    rows = cfg.train.max_steps * cfg.train.batch_size
    assert left.estimated_seconds == pytest.approx(rows)  # a second a row, as in the earlier cell
    earlier(tmp_path, "a", past, stage="0123", seconds=7.0)
    assert estimate_remaining_work(cfg).estimated_seconds is None
    assert estimate_remaining_work(cfg).measured_seconds == pytest.approx(rows + 14)
