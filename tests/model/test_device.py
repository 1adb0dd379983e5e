"""Freed memory stays with the process: page faults counted by the kernel, in a fresh process."""

import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from qlora_repro.model.device import keep_freed_memory

if {keep}:
    keep_freed_memory()
def touch():
    torch.ones(1 << 24)  # 64 MB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):  # it takes a few until there is room
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_that_is_taken_again_costs_no_page_faults() -> None:
    assert faults(keep=True) < faults(keep=False) / 4
