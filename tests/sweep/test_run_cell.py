"""How an error of a cell is worded."""

import errno

import pytest
import torch

from qlora_repro.sweep.run_cell import from_the_machine


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.jsonl"), "the disk is full while a"),
        (MemoryError(), "out of memory (MemoryError); lower eval.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory (CUDA out of memory.); low"),
        (RuntimeError("can't allocate memory"), "out of memory (can't allocate memory); lower"),
    ],
)
def test_a_machine_that_runs_out_is_worded_wherever_it_does(error: Exception, said: str) -> None:
    assert (from_the_machine(error) or "").startswith(said)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), RuntimeError("a bug")])
def test_any_other_error_keeps_its_traceback(error: Exception) -> None:
    assert from_the_machine(error) is None
