"""Table 10: 5-shot MMLU of LLaMA-7B trained on instructions too, or on responses alone."""

from functools import partial

from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import MMLU, STAND_INS, Artifact, Place, always, cells, offered
from analysis.findings.runs import Run

STEM = "table10_train_on_source"
MODEL = "llama_7b"
BOTH, TARGET = "source and target", "target"


def places(run: Run) -> list[Place]:
    """Return the cell of a tuned run."""
    if not run.tuned:
        return []
    data = str(run.at("data.name"))
    column = data if run.model == MODEL else f"{run.model} {data}"
    return offered(BOTH if run.at("data.train_on_source") else TARGET, column, (MMLU, *STAND_INS))


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 10: 5-shot MMLU, training on source and target or on target alone, LLaMA-7B",
    heads=("trained on", "data"),
    places=places,
    varies=("data.train_on_source",),
    models=(MODEL,),
    scores=(MMLU.task,),
    base=always(BOTH),
    paper=partial(cells, STEM),
    presets=(STEM,),
    digits=1,
    notes=(f"base row: {BOTH}", "the paper trains on 52,000 rows of each, one run a cell"),
)
build = partial(build_cells, ARTIFACT)
