"""What a sweep leaves when a cell fails, what a second call costs, and how a run is repeated."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import Forked, fork
from running import Outcome, run_afresh

from qlora_repro.stages import train as training

pytestmark = pytest.mark.long

SMALL = [
    *("model=tiny", "eval.n=1", "eval.tasks=[procedural_mc]", "train.max_steps=2", "data.rows=16"),
    *("lora.r=4",),
]
SWEEP = [*SMALL, "-m", "train.lr=0.05,inf,0.01"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Forked:
    """Three cells, of which the second one's loss is not a number."""
    run = fork(tmp_path_factory.mktemp("swept"), *SWEEP)
    assert run.end() == 1
    return run


def results(run: Forked) -> Path:
    return run.folder / "outputs" / "results"


def failures(run: Forked) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in results(run).glob("*/failed.json")]


def row(text: str, part: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("│") and part in line)


def test_a_cell_that_fails_leaves_reason_traceback_and_command_in_its_own_folder(
    swept: Forked,
) -> None:
    (failure,) = failures(swept)
    assert failure["state"] == "failed"
    assert failure["why"].startswith("the loss is nan at step 2")
    assert failure["traceback"][0] == "Traceback (most recent call last):"
    assert "RunError" in failure["traceback"][-1]
    assert failure["rerun"] == f"python run.py {' '.join(SMALL)} train.lr=inf".replace(
        "eval.tasks=[procedural_mc]", "'eval.tasks=[procedural_mc]'"
    )


def test_the_others_run_on_and_the_end_names_what_failed_and_how_to_run_just_that(
    swept: Forked,
) -> None:
    assert len(list(results(swept).glob("*/train.json"))) == 2
    end = swept.output.partition("the sweep, a row a cell")[2]
    assert "failed" in row(end, "train.lr=inf")
    assert "error: 1 of 3 cells failed or were not run; to run just those:" in end
    assert end.rstrip().endswith("train.lr=inf")


def test_a_second_call_runs_the_failed_cell_alone_and_says_what_is_in_the_store(
    swept: Forked,
) -> None:
    again = fork(swept.folder, *SWEEP)
    assert again.end() == 1
    assert again.output.count("training: in the store, skipped") == 2
    assert again.output.count("training on 16 rows") == 1
    first, second = (run.output.partition("the sweep, a row a cell")[2] for run in (swept, again))
    assert first == second


@pytest.fixture
def without_torch(swept: Forked, tmp_path: Path) -> Outcome:
    """A finished cell asked for where neither torch nor scipy can be imported."""
    site = tmp_path / "site"
    for name in ("torch", "scipy", "transformers", "peft"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(f"raise ImportError('{name} was imported')")
    return run_afresh(swept.folder, *SMALL, "train.lr=0.05", env={"PYTHONPATH": str(site)})


def test_a_finished_cell_shows_its_row_without_importing_what_runs_models(
    without_torch: Outcome, swept: Forked
) -> None:
    assert (without_torch.code, without_torch.err) == (0, "")
    assert without_torch.out.count("in the store, skipped") == 3
    shown = row(without_torch.out, "procedural_mc")
    assert shown in swept.output


def failing(kind: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch, *, seed: int) -> None:
    """Let training of one seed fail."""
    train = training.train_model

    def broken(model: Any, job: Any, **rest: Any) -> Any:
        if job.seed == seed:
            raise kind()
        return train(model, job, **rest)

    monkeypatch.setattr(training, "train_model", broken)


def test_out_of_memory_is_a_state_of_its_own_and_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda: torch.OutOfMemoryError("CUDA out of memory."), monkeypatch, seed=0)
    run = fork(tmp_path, *SMALL, "-m", "seed=0,1")
    assert run.end() == 1
    assert [failure["state"] for failure in failures(run)] == ["out of memory"]
    assert "OOM" in row(run.output.partition("a row a cell")[2], "seed 0")
    assert len(list(results(run).glob("*/train.json"))) == 1


def test_on_error_stop_ends_at_the_first_failure_and_shows_an_unforeseen_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda: ZeroDivisionError("a bug"), monkeypatch, seed=0)
    run = fork(tmp_path, *SMALL, "-m", "seed=0,1,2", "on_error=stop", "eval=none")
    assert run.end() == 1
    assert run.output.count("training on 16 rows") == 1
    assert "Traceback (most recent call last):" in run.output
    assert "eval=none): ZeroDivisionError: a bug" in run.output
    assert run.output.count("on_error=stop: a cell failed before") == 2
    assert run.output.rstrip().splitlines()[-1].startswith("  python run.py -m model=tiny ")
    assert "seed=0,1,2" in run.output.rstrip().splitlines()[-1]


def test_a_run_is_repeated_from_its_folder_and_a_number_that_differs_is_found(
    swept: Forked,
) -> None:
    done = min(path.parent for path in results(swept).glob("*/train.json"))
    run = fork(swept.folder, "--replay", str(done))
    assert run.end() == 0, run.output
    assert f"every number is that of {done}" in run.output
    copy = swept.folder / "altered" / done.name
    shutil.copytree(done, copy)
    (copy / "whole.json").unlink()  # an older store, whose files are taken as they are
    steps = copy / "steps.jsonl"
    steps.write_text(steps.read_text().replace('"loss": ', '"loss": 1'))
    for origin in copy.glob("origin-*.json"):  # of a time before there was such a setting
        told = json.loads(origin.read_text())
        del told["config"]["train"]["sharded"]
        origin.write_text(json.dumps(told))
    run = fork(swept.folder, "--replay", str(copy))
    assert run.end() == 1
    assert row(run.output, "steps.jsonl").split("│")[2:4] == ["       8 ", "      2 "]
    assert "error: steps.jsonl came out otherwise" in run.output
    assert "that there were not then have their defaults: train.sharded" in run.output


def test_torn_records_are_named_and_made_again(swept: Forked, tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(swept.folder, folder)
    steps, *_ = sorted((folder / "outputs" / "results").glob("*/steps.jsonl"))
    before = steps.read_bytes()
    steps.write_bytes(before[:-20])
    run = fork(folder, *SWEEP)
    assert run.end() == 1
    assert f"note: outputs/results/{steps.parent.name}/steps.jsonl has " in run.output
    assert run.output.count("training on 16 rows") == 2  # and the one that fails
    assert steps.read_bytes() == before
