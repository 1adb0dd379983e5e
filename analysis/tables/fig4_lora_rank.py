"""Figure 4: RougeL by the rank of adapters on all layers."""

from functools import partial

from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import ROUGE, STAND_INS, Artifact, Key, Place, cells, least, offered
from analysis.findings.runs import Run

STEM = "fig4_lora_rank"
MODEL = "llama_7b"
COLUMN = "alpaca, mean of runs"


def places(run: Run) -> list[Place]:
    """Return the place of a run with adapters: its rank."""
    if not run.tuned or not run.at("lora.r"):
        return []
    paper = run.model == MODEL and run.at("data.name") == "alpaca"
    target = run.at("lora.target")
    of_all = COLUMN if target == "all" else f"alpaca, {target}"
    column = of_all if paper else f"{run.model} {run.at('data.name')}, adapters on {target}"
    return offered(str(run.at("lora.r")), column, (ROUGE, *(s for s in STAND_INS if s != ROUGE)))


def paper() -> dict[Key, float]:
    """Return the mean at each rank."""
    return {(row, COLUMN): value for (row, name), value in cells(STEM).items() if name == "mean"}


ARTIFACT = Artifact(
    stem=STEM,
    title="Figure 4: RougeL by the rank r of adapters on all layers, LLaMA-7B on Alpaca",
    heads=("r", "model and data"),
    places=places,
    varies=("lora.r",),
    models=(MODEL,),
    scores=(ROUGE.task,),
    base=least,
    paper=paper,
    presets=(STEM,),
    digits=2,
    notes=(
        "base row: the smallest r; lora.alpha is the same at every r, so that the scale of an "
        "update, alpha / r, falls with r",
        "paper: means of 15 or 16 runs at each r, with a standard deviation of 0.30 to 0.33 and "
        "between 63.97 and 65.05, decoded from the figure",
    ),
)
build = partial(build_cells, ARTIFACT)
