"""Cells of one process share a base and a dataset, and none of them can tell."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_repro import pipeline, session
from qlora_repro.config.schema import RunConfig
from qlora_repro.stages import train

pytestmark = pytest.mark.long

Configured = Callable[..., RunConfig]
SMALL = (
    *("model=tiny", "data.rows=16", "train.max_steps=2", "eval.n=1", "lora.r=4", "train.lr=0.05"),
    *("eval.tasks=[procedural_mc]", "lora.dropout=0.1"),
)
TELLING = ("steps.jsonl", "adapter/adapter_model.safetensors", "answers-*.jsonl")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    session.clear_caches()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often bases were loaded, datasets read and encoded."""
    counts: dict[str, int] = {}

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return function(*words, **named)

        return call

    monkeypatch.setattr(session, "load_base", counting("base", session.load_base))
    monkeypatch.setattr(session, "load_examples", counting("examples", session.load_examples))
    monkeypatch.setattr(train, "encode_examples", counting("encoded", train.encode_examples))
    return counts


def told(folder: Path) -> list[bytes]:
    return [path.read_bytes() for name in TELLING for path in sorted(folder.glob(name))]


@pytest.mark.parametrize(
    "how", [(), ("dtype.backend=simulated",), ("dtype=bf16", "dq=false")], ids=str
)
def test_a_sweep_loads_once_and_its_last_cell_is_that_cell_alone_byte_for_byte(
    how: tuple[str, ...], configured: Configured, counted: dict[str, int], tmp_path: Path
) -> None:
    def run(root: str, *words: str) -> Path:
        cfg = configured(*SMALL, *how, f"results_dir={tmp_path / root}", *words)
        return pipeline.run_stages(cfg).folder

    run("sweep", "seed=0", "lora=qv")
    last = run("sweep", "seed=1", "data.seed=0")
    assert counted == {"base": 1, "examples": 1, "encoded": 1}
    session.clear_caches()
    alone = run("alone", "seed=1", "data.seed=0")
    assert counted["base"] == 2
    assert len(told(alone)) == len(TELLING)
    assert told(last) == told(alone)


def test_another_base_or_dataset_is_loaded_and_the_old_one_let_go(
    configured: Configured, counted: dict[str, int], tmp_path: Path
) -> None:
    first = configured(*SMALL, f"results_dir={tmp_path}", "stages=[train]")
    pipeline.run_stages(first)
    assert session.BASE_MODEL.loaded is not None
    assert session.BASE_MODEL.acquire("another") is None
    assert session.BASE_MODEL.loaded is None
    pipeline.run_stages(
        configured(*SMALL, f"results_dir={tmp_path}", "stages=[train]", "data.rows=15")
    )
    assert counted == {"base": 2, "examples": 2, "encoded": 2}


def test_a_base_that_a_cell_changed_is_not_kept(configured: Configured, tmp_path: Path) -> None:
    holder = session.ModelSession(configured(*SMALL), tmp_path)
    loaded = holder.base()
    next(loaded.model.parameters()).data.add_(0)  # in place, as a careless stage might
    holder.release(keep_base=True)
    unchanged = session.BASE_MODEL.loaded
    other = session.ModelSession(configured(*SMALL), tmp_path)
    other.base().model.config.vocab_size += 1
    other.release(keep_base=True)
    assert unchanged is None or unchanged is not session.BASE_MODEL.loaded
    assert session.BASE_MODEL.loaded is None


def test_a_cell_that_failed_keeps_nothing(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*words: Any, **named: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "train_model", broken)
    with pytest.raises(ZeroDivisionError):
        pipeline.run_stages(configured(*SMALL, f"results_dir={tmp_path}", "stages=[train]"))
    assert session.BASE_MODEL.loaded is None
