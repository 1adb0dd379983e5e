"""Table 10: 5-shot MMLU of LLaMA-7B trained on instructions too, or on responses alone."""

from functools import partial

from analysis.artifacts.artifact import MMLU, MMLU_FIRST, Artifact, CellScore, cell_scores
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun

STEM = "table10_train_on_source"
MODEL = "llama_7b"
BOTH, TARGET = "source and target", "target"


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the cell of a tuned run."""
    if not run.is_tuned:
        return []
    data = str(run.setting("data.name"))
    column = data if run.model == MODEL else f"{run.model} {data}"
    row = BOTH if run.setting("data.train_on_source") else TARGET
    return cell_scores(row, column, MMLU_FIRST)


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 10: 5-shot MMLU, training on source and target or on target alone, LLaMA-7B",
    heads=("trained on", "data"),
    locate_run=locate_run,
    varies=("data.train_on_source",),
    models=(MODEL,),
    scores=(MMLU.task,),
    base_rows=(BOTH,),
    digits=1,
    notes=(f"base row: {BOTH}", "the paper trains on 52,000 rows of each, one run a cell"),
)
build_table = partial(build_artifact_table, ARTIFACT)
