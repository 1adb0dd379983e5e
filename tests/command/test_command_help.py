"""What is asked before a run: quick answers, without importing what a run needs."""

from pathlib import Path

import pytest
from running import RUN, Outcome, run_afresh

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "lm_eval", "numpy", "pandas")
GROUPS = ("model", "dtype", "lora", "data", "train", "eval", "generate", "judge", "tracker")
ASKED = {
    "help": ["--help"],
    "configuration": ["--cfg", "job", "--resolve"],
    "refusal": ["stages=[]"],
}


def imported(outcome: Outcome) -> set[str]:
    """Return the top-level packages that Python's import timer lists on stderr."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize("name", ASKED)
def test_answers_without_importing_anything_heavy(name: str, tmp_path: Path) -> None:
    outcome = run_afresh(tmp_path, *ASKED[name], env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "hydra" in imported(outcome)
    assert not imported(outcome) & set(HEAVY)
    assert not list(tmp_path.iterdir())


def test_help_lists_the_options_of_every_group_and_how_to_write_a_command(tmp_path: Path) -> None:
    text = run_afresh(tmp_path, "--help").out
    for group in GROUPS:
        start = text.index(f"\n  {group} ")
        paths = (RUN.parent / "conf" / group).glob("[!_]*.yaml")
        for option in (path.stem for path in paths):
            assert option in text[start:], f"{group}={option}"
    for command_line in (
        "python run.py -m dtype=bf16,nf4,fp4 dq=true,false",
        "--cfg job --resolve",
    ):
        assert command_line in text
    assert " _" not in text
    assert max(map(len, text.splitlines())) <= 110


def test_configuration_is_whole_and_of_the_cell_that_was_asked_for(tmp_path: Path) -> None:
    text = run_afresh(tmp_path, "model=tiny", "--cfg", "job", "--resolve", "dtype=fp4").out
    assert "\n  name: fp4\n" in text
    assert "\n  name: tiny\n" in text
    assert "${" not in text
    assert "???" not in text
