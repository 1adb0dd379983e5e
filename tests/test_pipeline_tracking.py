"""tracker=wandb, offline: one run a cell, closed whatever happens, and no result depends on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.stages import train
from qlora_repro.sweep.run_cell import run_cell

SMALL = ("model=tiny", "data.rows=8", "train.max_steps=2", "lora.r=4", "stages=[train]")
TRACKED = ("tracker=wandb", "tracker.mode=offline")


@pytest.fixture
def cell(configured: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunConfig]:
    def make(name: str, *overrides: str) -> RunConfig:
        return configured(*SMALL, f"results_dir={tmp_path / name}", *overrides)

    return make


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Exit codes of the tracker runs that were closed; none is left open afterwards."""
    import wandb
    from wandb.sdk.wandb_run import Run

    monkeypatch.setenv("WANDB_SILENT", "true")
    codes: list[int] = []
    finish = Run.finish

    def noting(self: Any, exit_code: int | None = None, *args: Any, **kwargs: Any) -> None:
        codes.append(exit_code or 0)
        finish(self, exit_code, *args, **kwargs)

    monkeypatch.setattr(Run, "finish", noting)
    yield codes
    assert wandb.run is None
    wandb.teardown()


def runs(folder: Path) -> list[Path]:
    return list(folder.glob("wandb/offline-run-*"))


def test_each_cell_is_one_offline_run_and_leaves_the_results_of_an_untracked_one(
    cell: Callable[..., RunConfig], finished: list[int]
) -> None:
    plain = pipeline.run_stages(cell("plain")).folder
    assert not runs(plain)
    folders = [
        pipeline.run_stages(cell("tracked", *TRACKED, f"seed={seed}")).folder for seed in (0, 1)
    ]
    assert [len(runs(folder)) for folder in folders] == [1, 1]
    assert finished == [0, 0]
    for name in ("steps.jsonl", "adapter/adapter_model.safetensors"):
        assert (folders[0] / name).read_bytes() == (plain / name).read_bytes()
    assert folders[0].name == plain.name


def test_the_run_is_closed_as_failed_when_training_raises(
    cell: Callable[..., RunConfig], finished: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_model", broken)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_stages(cell("tracked", *TRACKED))
    assert finished == [1]


@pytest.mark.parametrize("cells", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_cells_of_one_process_leave_a_run_each_also_when_one_fails(
    cells: int, cell: Callable[..., RunConfig], finished: list[int]
) -> None:
    states = []
    for seed in range(cells):
        failing = ["train.lr=inf"] if seed == 1 else []
        states.append(run_cell(cell("all", *TRACKED, f"seed={seed}", *failing), rerun="").state)
    assert states == ["done", "failed", *["done"] * (cells - 2)]
    assert finished == [0, 1, *[0] * (cells - 2)]
    root = Path(cell("all").results_dir)
    folders = [path for path in root.glob("tiny-*") if "untuned" not in path.name]
    assert sorted(len(runs(folder)) for folder in folders) == [1] * cells
    ids = [path.name.rpartition("-")[2] for folder in folders for path in runs(folder)]
    assert len(set(ids)) == cells
