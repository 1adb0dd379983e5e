"""Where the project's own files are: conf/, experiments/, the paper's numbers, the evidence."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout
RUN = ROOT / "run.py"
PYPROJECT = ROOT / "pyproject.toml"
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"
MARGINS = EXPERIMENTS / "claims" / "margins.yaml"
PAPER = ROOT / "analysis" / "paper"
RELEASED_VERDICTS = PAPER / "released_verdicts.parquet"
RESULTS = ROOT / "analysis" / "results"
GPU_REPORTS = ROOT / "analysis" / "gpu"  # a folder a card
