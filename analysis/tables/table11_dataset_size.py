"""Table 11: 5-shot MMLU by rows of training data and passes over them."""

from functools import partial

from analysis.artifacts.artifact import MMLU, MMLU_FIRST, Artifact, CellScore, cell_scores
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun

STEM = "table11_dataset_size"
MODEL = "llama_7b"
NEAR = 0.01  # of a whole number of passes: steps are whole


def count_epochs(run: EvaluatedRun) -> int | None:
    """Return how often every row was seen; None where it is no whole number."""
    rows = run.setting("data.rows") - (run.setting("data.holdout") or 0)
    seen = run.setting("train.max_steps") * (run.setting("train.batch_size") or 1) / rows
    return round(seen) if seen > 0.5 and abs(seen - round(seen)) <= NEAR * seen else None


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the cell of a tuned run: by its epochs, for stand-ins by its steps too."""
    rows, steps = run.setting("data.rows"), run.setting("train.max_steps")
    if not run.is_tuned or not rows or not steps:
        return []
    epochs, data = count_epochs(run), run.setting("data.name")
    lengths = [f"{epochs} epoch" + "s" * (epochs > 1)] if epochs else []
    if run.model != MODEL:
        lengths.append(f"{steps} steps")
        data = f"{run.model} {data}"
    return [
        cell
        for length in lengths
        for cell in cell_scores(str(rows), f"{data} {length}", MMLU_FIRST)
    ]


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 11: 5-shot MMLU by size of the training data and passes over it",
    heads=("rows", "data and passes"),
    locate_run=locate_run,
    varies=("data.rows", "train.max_steps"),
    models=(MODEL,),
    scores=(MMLU.task,),
    base_rows=(),
    digits=2,
    notes=(
        "base row: the smallest size of a column; of a stand-in also with equal steps in each size",
        "the paper's text has 0.0 to 0.5 for the effect of size and passes, 1.5 to 8.0 for that of "
        "data; its cells give means of sizes up to 0.9 apart, of passes 1.0, of data 4.2 to 9.6",
        "the paper implies LLaMA-7B; one run a cell, and Unnatural Instructions moves by 4 to 5 "
        "points between passes",
    ),
)
build_table = partial(build_artifact_table, ARTIFACT)
