"""Figure 2: RougeL by where LoRA goes, beside full fine-tuning."""

from functools import partial

import pandas as pd

from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import ROUGE, STAND_INS, Artifact, Key, Place, always, cells, offered
from analysis.findings.runs import Run

STEM = "fig2_lora_coverage"
MODEL = "llama_7b"
COLUMN = "alpaca, mean of points"
STANFORD = 128  # rows a step, by which Stanford's settings are known


def row(run: Run) -> str:
    """Return the placement of the adapters, as the figure's csv has it, or how all was tuned."""
    target = str(run.at("lora.target"))
    if target == "none":
        stanford = run.at("train.batch_size") == STANFORD
        return "16-bit full stanford" if stanford else "16-bit full tuned"
    return f"{'qlora' if run.at('dtype.name') == 'nf4' else run.at('dtype.name')} {target}"


def places(run: Run) -> list[Place]:
    """Return the bar of a tuned run."""
    if not run.tuned:
        return []
    paper = run.model == MODEL and run.at("data.name") == "alpaca"
    column = COLUMN if paper else f"{run.model} {run.at('data.name')}"
    return offered(row(run), column, (ROUGE, *(s for s in STAND_INS if s != ROUGE)))


def points() -> pd.Series:
    """Return the points of each bar, by row, in the figure's order."""
    found = pd.Series(cells(STEM))
    return found.groupby(level=0, sort=False).apply(list)


def paper() -> dict[Key, float]:
    """Return the mean of each bar's points."""
    return {(str(name), COLUMN): sum(of) / len(of) for name, of in points().items()}


ARTIFACT = Artifact(
    stem=STEM,
    title="Figure 2: RougeL by where adapters go, LLaMA-7B on Alpaca",
    heads=("adapters", "model and data"),
    places=places,
    varies=("dtype.name", "dtype.scales", "dq", "lora.target", "train.batch_size"),
    models=(MODEL,),
    scores=(ROUGE.task,),
    base=always("qlora all"),
    paper=paper,
    presets=(STEM,),
    digits=2,
    notes=(
        "base row: qlora all, adapters on all linear layers of a block",
        "paper: means of 4 points with adapters, of 2 of full fine-tuning, decoded from the "
        "figure; points of one bar lie within 0.1 but for Stanford's settings (1.5)",
        "the paper's text speaks of query and value alone, and draws no such bar",
    ),
)
build = partial(build_cells, ARTIFACT)
