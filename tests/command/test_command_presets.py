"""Presets at the command line: narrowed, priced, and labelled where they stand in."""

from pathlib import Path

import pytest
from running import Outcome, run_command


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    words = ["experiments=table5_mmlu_by_dataset", "model=llama_7b", "data=oasst1,alpaca"]
    return run_command(tmp_path_factory.mktemp("narrowed"), *words, "stages=[plan]")


def test_an_axis_named_on_the_command_line_narrows_a_preset(narrowed: Outcome) -> None:
    assert (narrowed.code, narrowed.err) == (0, "")
    assert narrowed.out.count("\ncell ") == 2
    planned = sorted(path.name.partition("-s0-")[0] for path in narrowed.runs)
    assert planned == [f"llama_7b-nf4-dq-all-r64-{data}" for data in ("alpaca", "oasst1")]


def test_a_preset_is_priced_without_weights_and_says_what_a_24_gb_card_holds(
    narrowed: Outcome,
) -> None:
    assert narrowed.out.count("memory predicted for llama_7b, nf4 + dq, lora all r=64") == 2
    assert narrowed.out.count("24 GB card (25.27 GB for tensors): training holds it") == 2
    assert "stand-in" not in narrowed.out


def test_a_twin_says_in_every_title_and_row_that_it_stands_in(tmp_path: Path) -> None:
    words = ["experiments=table9_hyperparameters", "scale=small", "lora.r=8,16"]
    done = run_command(tmp_path, *words)
    assert (done.code, done.err) == (0, "")
    for line in done.out.splitlines():
        if "smollm2_135m, nf4" in line:
            assert "stand-in smollm2_135m, nf4" in line
    assert done.out.count("scale=small: the shape and settings of SmolLM2-135M") == 2


def test_a_preset_without_a_twin_refuses_to_be_small(tmp_path: Path) -> None:
    done = run_command(tmp_path, "experiments=smoke", "scale=small")
    assert "smaller twin, and there is none here" in done.refusal()
