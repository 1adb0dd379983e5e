"""Table 5: 5-shot MMLU by what NF4 + DQ QLoRA was trained on."""

from functools import partial

from analysis.artifacts.artifact import (
    MMLU,
    MMLU_FIRST,
    Artifact,
    CellScore,
    cell_scores,
    describe_settings,
)
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun
from analysis.paper_tables import LLAMA_MODELS, load_column

STEM = "table5_mmlu_by_dataset"
NO_TUNING = "none"


def data_label(run: EvaluatedRun) -> str:
    """Return the data's name; of data that has kinds, which they are, how many rows, how wrong."""
    name = str(run.setting("data.name"))
    if run.setting("data.tasks") is None and not run.setting("data.wrong"):
        return name
    paths = ("data.tasks", "data.rows", "data.wrong")
    return f"{name}, {describe_settings({path: run.setting(path) for path in paths}, paths)}"


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the cell of a run through NF4 and DQ, tuned on all layers or not at all."""
    if (run.setting("dtype.name"), run.setting("dq")) != ("nf4", True):
        return []
    if run.is_tuned and run.setting("lora.target") != "all":
        return []
    row = data_label(run) if run.is_tuned else NO_TUNING
    return cell_scores(row, run.model, MMLU_FIRST)


def describe_sizes() -> str:
    """Return how many rows the paper took of each data set (Appendix B.1)."""
    rows = load_column("datasets", "rows")
    return "rows in the paper: " + ", ".join(f"{name} {n:,.0f}" for name, n in rows.items())


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 5: 5-shot MMLU by training data, NF4 + DQ",
    heads=("data", "model"),
    locate_run=locate_run,
    varies=("data", "train.batch_size", "train.max_steps"),
    models=LLAMA_MODELS,
    scores=(MMLU.task,),
    base_rows=(NO_TUNING,),
    digits=1,
    notes=(
        "base row: none, the model before tuning",
        describe_sizes(),
        "the paper's row without tuning equals the numbers that Meta published, so it was probably "
        "copied; at 33B and 65B only FLAN v2 is above it",
    ),
)
build_table = partial(build_artifact_table, ARTIFACT)
