"""A run with an open micro-batch: what is chosen runs, is on record, and changes no step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.stages import train

Configured = Callable[..., RunConfig]
SMALL = (
    *("model=tiny", "stages=[train]", "data.rows=16", "train.max_steps=3", "train.batch_size=8"),
    *("lora.r=4", "lora.dropout=0.0", "train.lr=0.05"),
)
AUTO = ("train.micro_batch_size=auto", "train.gradient_checkpointing=auto")


def trained(cfg: RunConfig) -> dict[str, Any]:
    """Run a cell and return its record of training."""
    record: dict[str, Any] = json.loads(
        (pipeline.run_stages(cfg).folder / "manifest.json").read_text()
    )["training"]
    return record


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Let training see so many bytes: it stands in for torch.cuda.mem_get_info."""

    def show(memory: int | None) -> None:
        monkeypatch.setattr(train, "available_bytes", lambda device, *, reserve: memory)

    return show


@pytest.mark.parametrize(
    ("memory", "rows", "checkpointing"), [(None, 1, True), (10**9, 8, False), (10**3, 1, True)]
)
def test_what_is_chosen_runs_and_is_on_record(
    memory: int | None,
    rows: int,
    checkpointing: bool,
    configured: Configured,
    card: Callable[[int | None], None],
    tmp_path: Path,
) -> None:
    card(memory)
    record = trained(configured(*SMALL, *AUTO, f"results_dir={tmp_path}"))
    assert (record["micro_batch_size"], record["gradient_checkpointing"]) == (rows, checkpointing)


def test_a_step_is_the_same_whatever_was_chosen(
    configured: Configured, card: Callable[[int | None], None], tmp_path: Path
) -> None:
    losses = []
    for name, memory in (("small", 10**3), ("large", 10**9)):
        card(memory)
        losses.append(trained(configured(*SMALL, *AUTO, f"results_dir={tmp_path / name}")))
    small, large = (record["last_loss"] for record in losses)
    assert small == pytest.approx(large, rel=1e-4)


def test_memory_is_not_asked_for_where_the_run_states_it_all(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(train, "available_bytes")
    record = trained(configured(*SMALL, f"results_dir={tmp_path}"))
    assert record["micro_batch_size"] == 8
