"""How tests of a GPU are started: one after the other, and none fills the card unasked."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_gpu_paging import (
    test_training_goes_on_with_its_states_evicted_and_gives_the_same_adapter as EVICTION,
)

ROOT = Path(__file__).resolve().parents[2]


def options(**values: Any) -> Any:
    """Return what stands in for pytest's configuration: its options, by name without dashes."""
    return SimpleNamespace(getoption=lambda name, _=None: values[name.removeprefix("--")])


@pytest.fixture
def conftest(request: pytest.FixtureRequest) -> Any:
    """The conftest.py of all tests, as pytest loaded it."""
    plugins = request.config.pluginmanager.get_plugins()
    path = str(ROOT / "tests" / "conftest.py")
    return next(one for one in plugins if getattr(one, "__file__", None) == path)


def test_make_test_gpu_runs_one_test_at_a_time() -> None:
    dry = subprocess.run(["make", "-n", "test-gpu"], cwd=ROOT, capture_output=True, text=True)
    assert "-m pytest -n 0 -m gpu" in dry.stdout


def test_the_eviction_test_is_skipped_unless_it_is_asked_for(conftest: Any) -> None:
    class Item:
        def __init__(self) -> None:
            self.marks: list[Any] = []

        def get_closest_marker(self, name: str) -> bool:
            return name == "oversubscribe"

        def add_marker(self, mark: Any) -> None:
            self.marks.append(mark)

    conftest.pytest_collection_modifyitems(options(oversubscribe=True), [item := Item()])
    assert item.marks == []
    conftest.pytest_collection_modifyitems(options(oversubscribe=False), [item])
    (mark,) = item.marks
    assert mark.name == "skip"
    assert "--oversubscribe -n 0, on a card of your own" in mark.kwargs["reason"]


def test_filling_the_card_beside_other_tests_is_refused(conftest: Any) -> None:
    conftest.pytest_configure(options(oversubscribe=True, numprocesses=0))
    with pytest.raises(pytest.UsageError, match="--oversubscribe fills the GPU: add -n 0"):
        conftest.pytest_configure(options(oversubscribe=True, numprocesses=2))


def test_the_test_that_fills_the_card_is_marked_so() -> None:
    marks = {mark.name for mark in EVICTION.pytestmark}  # type: ignore[attr-defined]
    assert marks == {"gpu", "oversubscribe"}
