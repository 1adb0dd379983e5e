"""How an error of a cell is described, and which stages there are."""

import copy
import errno
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from analysis.status import read_status
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.records import CellState
from qlora_repro.store.cell import find_cell
from qlora_repro.store.load import load_documents
from qlora_repro.sweep.replay import _configs
from qlora_repro.sweep.run_cell import describe_error, run_cell


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (OSError(errno.ENOSPC, "full", "a.jsonl"), "failed", "the disk is full while a.jsonl was"),
        (MemoryError(), "out of memory", "out of memory (MemoryError); lower eval.batch_size"),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            "out of memory",
            "out of memory (CUDA out of memory.); lower",
        ),
        (
            RuntimeError("can't allocate memory"),
            "out of memory",
            "out of memory (can't allocate memory); lower",
        ),
    ],
)
def test_a_machine_that_runs_out_is_described_wherever_it_does(
    error: Exception, state: str, why: str
) -> None:
    outcome = describe_error(error)
    assert (outcome.state, outcome.unforeseen) == (state, False)
    assert outcome.why.startswith(why)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), RuntimeError("a bug")])
def test_any_other_error_keeps_its_traceback(error: Exception) -> None:
    outcome = describe_error(error)
    assert (outcome.state, outcome.unforeseen) == (CellState.FAILED, True)
    assert outcome.trace


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ("[]", "stages is empty; write stages=[train,eval]"),
        ("[tain]", "stages has 'tain', and knows only plan, measure, train, eval, generate"),
    ],
)
def test_a_stage_that_there_is_not_is_refused(
    stages: str, why: str, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    cfg = configured("model=tiny", f"stages={stages}", f"results_dir={tmp_path / 'results'}")
    outcome = run_cell(cfg, rerun="")
    assert outcome.state == CellState.REFUSED
    assert outcome.why.startswith(why)
    assert not list(tmp_path.iterdir())


def test_a_failure_goes_when_its_stage_is_no_longer_asked_for(
    configured: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=tiny", "train.max_steps=1", "data.rows=8", f"results_dir={tmp_path}"]
    words += ["generate=procedural", "generate.limit=1", "judge=reference"]
    judge = Mock(side_effect=RuntimeError("the judge broke"))
    monkeypatch.setattr("qlora_repro.judge.other_judges.judge_reference", judge)
    judged = configured(*words, "stages=[train,generate,judge]")
    assert run_cell(judged, rerun="").state == CellState.FAILED
    folder = find_cell(judged).folder.path
    assert read_status(folder, now=0).state == "failed"
    assert run_cell(configured(*words, "stages=[train]"), rerun="").state == CellState.IN_STORE
    assert read_status(folder, now=0).state == "done"


def test_recorded_settings_that_would_read_this_machine_are_not_replayed(tmp_path: Path) -> None:
    origin = copy.deepcopy(load_documents("origin-*.json")["document"].iloc[0])
    origin["config"]["tracker"]["project"] = "${oc.env:HOME}"
    with pytest.raises(ConfigError, match=r"hold an interpolation.*not replayed"):
        next(_configs([origin], tmp_path))
