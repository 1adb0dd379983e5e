"""Paged optimizer states that leave the GPU and come back, by bitsandbytes' own prefetches.

Managed memory stays far below what the card has free: a few hundred megabytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_gpu_paging import trained
from torch import Tensor
from transformers import TrainerCallback

from experiments.benchmarks.gpu_report.managed_memory import move_pages
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.train.paging import paged_bytes

pytestmark = pytest.mark.gpu


class SendAway(TrainerCallback):
    """After each step, move the paged states to the host; the optimizer brings them back."""

    def __init__(self) -> None:
        self.moved: list[int] = []  # bytes

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.moved.append(move_pages(to_host=True))


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether two adapters are the same to the last bit."""
    return all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_states_that_leave_and_come_back_give_the_same_adapter(
    rows: list[EncodedExample], tmp_path: Path
) -> None:
    stays = trained("paged_adamw_32bit", rows, tmp_path / "stays", [])
    away = SendAway()
    leaves = trained("paged_adamw_32bit", rows, tmp_path / "leaves", [away])
    assert away.moved[-1] == 8 * sum(weight.numel() for weight in stays.values())
    assert equal(stays, leaves)
    plain = trained("adamw_torch", rows, tmp_path / "plain", [])
    for name, weight in plain.items():
        assert (stays[name] - weight).norm() <= 0.02 * weight.norm(), name


def test_pages_are_freed_at_the_end_of_a_run(rows: list[EncodedExample], tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    for cell in ("one", "two"):
        trained("paged_adamw_32bit", rows, tmp_path / cell, [])
        assert paged_bytes() == 0
    torch.cuda.empty_cache()
    left, _ = torch.cuda.mem_get_info()
    assert free - left < 64 << 20  # libraries may have made their workspaces in between
