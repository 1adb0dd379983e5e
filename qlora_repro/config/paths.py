"""Where the project's files are: conf/, experiments/, the paper's numbers, the evidence.

And where the user's own are, whose folder of options is named on the command line.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout
RUN = ROOT / "run.py"
PYPROJECT = ROOT / "pyproject.toml"
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"
CRITERIA = EXPERIMENTS / "findings" / "criteria.yaml"  # of the seven findings
PAPER = ROOT / "analysis" / "paper"
RELEASED_VERDICTS = PAPER / "released_verdicts.parquet"
EVIDENCE = ROOT / "analysis" / "evidence"  # the published runs
GPU_REPORTS = ROOT / "analysis" / "gpu"  # a folder a card
CONFIG_DIR_VARIABLE = "QLORA_REPRO_CONFIG_DIR"  # in the environment, which workers inherit


def set_user_config_dir(arguments: Sequence[str]) -> list[str]:
    """Remember the folder of `--config-dir`; return the arguments without the flag."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd")
    try:
        known, others = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:  # a flag without a folder, which Hydra refuses
        return list(arguments)
    if known.config_dir:
        os.environ[CONFIG_DIR_VARIABLE] = str(Path(known.config_dir).absolute())
    return others


def user_config_dir() -> Path | None:
    """Return the user's folder of options; None where the command line names none."""
    folder = os.environ.get(CONFIG_DIR_VARIABLE)
    return Path(folder) if folder else None


def config_dir_flags() -> list[str]:
    """Return the flag that a command needs to find the options that this one finds."""
    folder = user_config_dir()
    return [] if folder is None else ["--config-dir", str(folder)]
