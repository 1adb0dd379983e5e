"""Run one cell or a sweep: Hydra composes the configuration, the pipeline runs it."""

import os
import sys
from pathlib import Path

os.environ["QLORA_REPRO_ROOT"] = str(Path(__file__).resolve().parent)  # where experiments/ is
# Threads that spin for long while they wait keep each other from running where cores are shared;
# a short spin costs nothing where they are not.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to run_command, which explains them

import hydra
from omegaconf import DictConfig

from qlora_repro.cli.main import run_command, run_job


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run the cell that Hydra composed; a sweep calls this once a cell."""
    run_job(cfg)


if __name__ == "__main__":
    sys.exit(run_command(main))
