"""Sweeps that are killed at any moment, and two that start at the same one."""

import random
import time
from pathlib import Path

import pytest
from forking import fork

pytestmark = pytest.mark.long

WORDS = [
    *("model=tiny", "eval=none", "train.max_steps=4", "train.save_steps=2", "data.rows=16"),
    *("lora.r=4", "-m"),
]
FEW = [*WORDS, "dtype=nf4", "seed=0,1,2"]
TWELVE = [*WORDS, "dtype=nf4,fp4,bf16", "seed=0,1,2,3"]
TELLING = ("steps.jsonl", "adapter/adapter_model.safetensors", "adapter/adapter_config.json")


def trained(folder: Path) -> dict[str, list[bytes]]:
    """Return what each run of the results folder came to."""
    return {
        mark.parent.name: [(mark.parent / name).read_bytes() for name in TELLING]
        for mark in (folder / "outputs" / "results").glob("*/train.json")
    }


def marks(folder: Path) -> dict[str, bytes]:
    """Return the records that mark training as done: they hold its seconds, so none is twice."""
    results = folder / "outputs" / "results"
    return {mark.parent.name: mark.read_bytes() for mark in results.glob("*/train.json")}


def undisturbed(folder: Path, words: list[str]) -> float:
    """Run a sweep to its end; return the seconds it took."""
    folder.mkdir()
    began = time.monotonic()
    run = fork(folder, *words)
    assert run.end() == 0, run.output
    return time.monotonic() - began


def kill_until_done(folder: Path, words: list[str], *, kills: int, seconds: float) -> None:
    """Kill a sweep so many times at random moments, then let it end.

    What was done before a kill must be done after it, and untouched.
    """
    folder.mkdir()
    rng, done = random.Random(0), dict[str, bytes]()
    for _ in range(kills):
        run = fork(folder, *words)
        run.kill_after(rng.uniform(0, seconds))
        now = marks(folder)
        assert done.items() <= now.items()
        done = now
    run = fork(folder, *words)
    assert run.end() == 0, run.output
    assert done.items() <= marks(folder).items()


def test_a_sweep_that_was_killed_again_and_again_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    took = undisturbed(tmp_path / "whole", FEW)
    kill_until_done(tmp_path / "killed", FEW, kills=4, seconds=took / 2)
    assert len(trained(tmp_path / "whole")) == 3
    assert trained(tmp_path / "killed") == trained(tmp_path / "whole")
    results = tmp_path / "killed" / "outputs" / "results"
    assert not list(results.glob("*/checkpoints"))
    assert not list(results.rglob("*.part"))
    assert not list(results.rglob("progress.json"))


@pytest.mark.slow
def test_twelve_cells_killed_at_forty_random_moments_end_as_an_undisturbed_sweep(
    tmp_path: Path,
) -> None:
    took = undisturbed(tmp_path / "whole", TWELVE)
    kill_until_done(tmp_path / "killed", TWELVE, kills=40, seconds=took / 6)
    assert len(trained(tmp_path / "whole")) == 12
    assert trained(tmp_path / "killed") == trained(tmp_path / "whole")


def at_once(folder: Path, words: list[str]) -> list[str]:
    """Start a sweep two times at the same moment; return what each of them said."""
    runs = [fork(folder, *words) for _ in range(2)]
    codes = [run.end() for run in runs]
    assert codes == [0, 0], [run.output for run in runs]
    return [run.output for run in runs]


def rows(output: str) -> list[str]:
    table = output.partition("the sweep, a row a cell")[2].partition("seeds folded")[0]
    return [line for line in table.splitlines() if line.startswith("│ tiny")]


@pytest.mark.parametrize("words", [FEW, pytest.param(TWELVE, marks=pytest.mark.slow)])
def test_two_processes_that_start_one_sweep_train_each_cell_once_and_both_show_all(
    words: list[str], tmp_path: Path
) -> None:
    cells = 3 if words is FEW else 12
    outputs = at_once(tmp_path, words)
    assert sum(text.count("\ntraining on 16 rows") for text in outputs) == cells
    assert [len(rows(text)) for text in outputs] == [cells, cells]
    assert rows(outputs[0]) == rows(outputs[1])
    assert len(trained(tmp_path)) == cells
