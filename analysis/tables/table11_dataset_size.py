"""Table 11: 5-shot MMLU by rows of training data and passes over them."""

from collections.abc import Sequence
from functools import partial

from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import MMLU, STAND_INS, Artifact, Place, cells, least, offered
from analysis.findings.runs import Run

STEM = "table11_dataset_size"
MODEL = "llama_7b"
NEAR = 0.01  # of a whole number of passes: steps are whole


def passes(run: Run) -> int | None:
    """Return how often every row was seen; None where it is no whole number."""
    rows = run.at("data.rows") - (run.at("data.holdout") or 0)
    seen = run.at("train.max_steps") * (run.at("train.batch_size") or 1) / rows
    return round(seen) if seen > 0.5 and abs(seen - round(seen)) <= NEAR * seen else None


def places(run: Run) -> list[Place]:
    """Return the cell of a tuned run: by its passes, for stand-ins by its steps too."""
    if not run.tuned or not run.at("data.rows") or not run.at("train.max_steps"):
        return []
    row, data, epochs = str(run.at("data.rows")), str(run.at("data.name")), passes(run)
    before = "" if run.model == MODEL else f"{run.model} "
    columns = [f"{epochs} epoch" + "s" * (epochs > 1)] if epochs else []
    columns += [] if run.model == MODEL else [f"{run.at('train.max_steps')} steps"]
    return [
        place
        for column in columns
        for place in offered(row, f"{before}{data} {column}", (MMLU, *STAND_INS))
    ]


def base(rows: Sequence[str]) -> str | None:
    """Return the smallest size."""
    return least([row for row in rows if row.isdigit()])


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 11: 5-shot MMLU by size of the training data and passes over it",
    heads=("rows", "data and passes"),
    places=places,
    varies=("data.rows", "train.max_steps"),
    models=(MODEL,),
    scores=(MMLU.task,),
    base=base,
    paper=partial(cells, STEM),
    presets=(STEM,),
    digits=2,
    notes=(
        "base row: the smallest size of a column; of a stand-in also with equal steps in each size",
        "the paper's text has 0.0 to 0.5 for the effect of size and passes, 1.5 to 8.0 for that of "
        "data; its cells give means of sizes up to 0.9 apart, of passes 1.0, of data 4.2 to 9.6",
        "the paper implies LLaMA-7B; one run a cell, and Unnatural Instructions moves by 4 to 5 "
        "points between passes",
    ),
)
build = partial(build_cells, ARTIFACT)
