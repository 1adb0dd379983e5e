"""What a training says before it starts of settings that are seldom meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig

SMALL = ("model=tiny", "stages=[train]", "train.max_steps=1", "data.rows=8")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), None),
        (("train.lr=0",), "train.lr=0: the weights stay as they are"),
        (
            ("lora.r=65",),
            "lora.r=65 is above the width of 4 of 14 adapted layers, the narrowest 64",
        ),
    ],
    ids=["usual", "no rate", "wide rank"],
)
def test_what_teaches_nothing_is_expected(
    words: tuple[str, ...],
    expected: str | None,
    configured: Callable[..., RunConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline.run_stages(configured(*SMALL, f"results_dir={tmp_path}", *words))
    notes = [line for line in capsys.readouterr().out.splitlines() if "note: " in line]
    notes_of_these = [line for line in notes if "train.lr" in line or "lora.r" in line]
    assert len(notes_of_these) == (expected is not None)
    assert expected is None or expected in notes_of_these[0]
