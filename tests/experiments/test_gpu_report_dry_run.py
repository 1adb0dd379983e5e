"""The GPU report with tiny shapes on a CPU: every part runs, or says why it needs a GPU.

Only what CUDA alone has stays unseen: its allocator, its pages, its kernels, its speed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.gpu_report.__main__ import LIMITS, list_gpu_tests, read_junit
from experiments.benchmarks.gpu_report.parts import PARTS

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
NEED_CUDA = {1, 2, 3}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a dry run, all parts of it."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-m", "experiments.benchmarks.gpu_report", "--tiny"]
    done = subprocess.run(
        [*command, "--out", str(out), "--parts", "1-10", "--seconds", "300"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written: dict[str, Any] = json.loads((out / "cpu-dry-run" / "report.json").read_text())
    return written


def test_every_part_passes_or_says_that_it_needs_a_gpu(report: dict[str, Any]) -> None:
    states = {part["number"]: part["state"] for part in report["parts"]}
    assert states == {n: "skipped" if n in NEED_CUDA else "passed" for n in range(1, 11)}
    for part in report["parts"]:
        assert ("needs CUDA" in (part["why"] or "")) == (part["number"] in NEED_CUDA)
    assert report["tiny"]
    assert report["card"] is None


def test_parts_measure_what_they_are_named_for(report: dict[str, Any]) -> None:
    parts = {part["number"]: part for part in report["parts"]}
    ways = parts[5]["rows"]
    assert "left out" not in parts[5]["facts"]
    assert [row for row in ways if "failed" in row] == []
    assert {row["way"] for row in ways} >= {"NF4 + DQ", "BF16 LoRA", "plain script, NF4 + DQ"}
    assert all(row["tokens/s"] > 0 for row in ways)
    losses = [row["loss of step 2, nats"] for row in ways if row["way"][:8] == "NF4 + DQ"]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-3)
    assert parts[7]["facts"]["adapters equal"]
    assert parts[7]["facts"]["resumed from step"] == 4
    assert parts[8]["facts"]["adapters equal"]  # a CPU adds in the same order each time
    assert all(row["that differ"] == 0 for row in parts[9]["rows"])
    assert {row["method"] for row in parts[10]["rows"]} == {"qlora_nf4_dq", "full_bf16"}


def test_the_parent_knows_the_limits_of_the_parts() -> None:
    assert {number: part.limit for number, part in PARTS.items()} == LIMITS


def test_the_report_runs_the_tests_for_a_gpu() -> None:
    marked = {path.name for path in list_gpu_tests() if "pytest.mark.gpu" in path.read_text()}
    assert {"test_gpu.py", "test_gpu_kernels.py", "test_gpu_prefetch.py"} <= marked


def test_failed_and_skipped_tests_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "tests.xml"
    path.write_text(
        "<testsuites><testsuite><testcase name='a'/>"
        "<testcase name='b'><failure message='no'/></testcase>"
        "<testcase name='c'><skipped message='later'/></testcase></testsuite></testsuites>"
    )
    counts, rows = read_junit(path)
    assert counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert [row["why"] for row in rows] == ["no", "later"]
