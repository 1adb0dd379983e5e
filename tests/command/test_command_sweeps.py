"""Sweeps: which cells run, what is folded, what happens when one fails."""

import shlex
from pathlib import Path

import pytest
from running import Outcome, run_command

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The product of three data types and a dq axis on the tiny model."""
    words = ["model=tiny", "-m", "dtype=bf16,nf4,fp4", "dq=true,false", "train.max_steps=1"]
    return run_command(tmp_path_factory.mktemp("five"), *words, "eval.n=1")


def test_the_16_bit_cells_of_a_dq_axis_fold_into_one_and_the_sweep_says_so(five: Outcome) -> None:
    assert (five.code, five.err) == (0, "")
    assert five.out.count("\ncell ") == 5
    assert five.out.count("\nfolded into an earlier cell: dq has no meaning for dtype=bf16") == 1
    assert five.out.count("dtype=bf16 dq=True train.max_steps=1 eval.n=1 (dq has no meaning") == 1
    kinds = sorted(path.name.split("-all-")[0] for path in five.runs)
    assert kinds == ["tiny-bf16", "tiny-fp4", "tiny-fp4-dq", "tiny-nf4", "tiny-nf4-dq"]
    for run in five.runs:
        assert (run / "adapter" / "adapter_model.safetensors").exists()


def test_a_sweep_ends_with_one_table_row_a_cell(five: Outcome) -> None:
    table = five.out.partition("the sweep, a row a cell")[2].partition("seeds folded")[0]
    rows = [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│ tiny")]
    held = [row.removeprefix("tiny, ").partition(", lora")[0] for row in rows]
    assert held == ["bf16", "nf4 + dq", "nf4", "fp4 + dq", "fp4"]


def test_an_axis_that_a_cell_does_not_read_folds_and_the_sweep_says_why(tmp_path: Path) -> None:
    words = ["model=tiny", "stages=[plan]", "-m", "dtype=bf16,nf4", "dtype.blocksize=32,64"]
    outcome = run_command(tmp_path, *words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("folded into an earlier cell") == 1
    assert ": dtype.blocksize is not read with this dtype.name\n" in outcome.out


def test_a_setting_that_no_cell_reads_is_refused_and_a_repeated_word_folds(tmp_path: Path) -> None:
    words = ["model=tiny", "stages=[plan]", "-m", "seed=0,0,1"]
    outcome = run_command(tmp_path, *words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("folded into an earlier cell") == 1
    refused = run_command(tmp_path, *words, "model.path=DIR")
    assert refused.code == 1
    assert "model.path is not read where model.source is random" in refused.err


def test_a_cell_that_fails_does_not_stop_the_sweep_which_says_so_and_fails(tmp_path: Path) -> None:
    words = ["model=tiny", "eval=none", "train.max_steps=1", "lora=regex", "-m"]
    outcome = run_command(tmp_path, *words, "lora.target=attn_proj,'.*q_proj'", "seed=-1,0")
    assert outcome.code == 1
    errors = outcome.err.splitlines()
    assert errors[0].startswith("error: cell 1 (model=tiny ")
    assert errors[0].endswith("seed=-1): seed is -1, and must be at least 0")
    assert "lora.target=attn_proj seed=0): lora.target='attn_proj' matches no" in errors[1]
    assert errors[3] == "error: 3 of 4 cells failed or were not run; to run just those:"
    assert errors[4:] == [
        f"  python run.py {' '.join(words[:-1])} {shlex.join([target])} seed={seed}"
        for target, seed in (
            ("lora.target=attn_proj", -1),
            ("lora.target=attn_proj", 0),
            ("lora.target='.*q_proj'", -1),
        )
    ]
    done = [path.parent for path in outcome.results.glob("*/train.json")]
    assert len(done) == 1
    assert f"everything is in outputs/results/{done[0].name}" in outcome.out
