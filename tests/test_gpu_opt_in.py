"""How tests of a GPU are started: one after the other, and none fills the card unasked."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVICTION = "tests/test_gpu_paging.py"


def pytest_run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", *words, EVICTION]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_make_test_gpu_runs_one_test_at_a_time() -> None:
    dry = subprocess.run(["make", "-n", "test-gpu"], cwd=ROOT, capture_output=True, text=True)
    assert "-m pytest -n 0 -m gpu" in dry.stdout


def test_the_eviction_test_is_skipped_unless_it_is_asked_for() -> None:
    result = pytest_run("-n", "0", "-rs")
    assert "1 skipped" in result.stdout
    assert "--oversubscribe -n 0, on a card of your own" in result.stdout


def test_filling_the_card_beside_other_tests_is_refused() -> None:
    result = pytest_run("--oversubscribe")  # with the two processes of pyproject.toml
    assert result.returncode == 4
    assert "--oversubscribe fills the GPU: add -n 0" in result.stderr
