"""Table 5: 5-shot MMLU by what NF4 + DQ QLoRA was trained on."""

from functools import partial

from analysis.artifacts.grouping import worded
from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import MMLU, STAND_INS, Artifact, Place, always, cells, offered
from analysis.findings.runs import Run
from analysis.paper_tables import column
from analysis.tables.table4_mmlu_by_dtype import MODELS

STEM = "table5_mmlu_by_dataset"
NO_TUNING = "none"


def kind(run: Run) -> str:
    """Return the data's name; of data that has kinds, which they are, how many rows, how wrong."""
    name = str(run.at("data.name"))
    if run.at("data.tasks") is None and not run.at("data.wrong"):
        return name
    paths = ("data.tasks", "data.rows", "data.wrong")
    return f"{name}, {worded({path: run.at(path) for path in paths}, paths)}"


def places(run: Run) -> list[Place]:
    """Return the cell of a run through NF4 and DQ, tuned on all layers or not at all."""
    if (run.at("dtype.name"), run.at("dq")) != ("nf4", True):
        return []
    if run.tuned and run.at("lora.target") != "all":
        return []
    row = kind(run) if run.tuned else NO_TUNING
    return offered(row, run.model, (MMLU, *STAND_INS))


def sizes() -> str:
    """Return how many rows the paper took of each data set (Appendix B.1)."""
    rows = column("datasets", "rows")
    return "rows in the paper: " + ", ".join(f"{name} {n:,.0f}" for name, n in rows.items())


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 5: 5-shot MMLU by training data, NF4 + DQ",
    heads=("data", "model"),
    places=places,
    varies=("data", "train.batch_size", "train.max_steps"),
    models=MODELS,
    scores=(MMLU.task,),
    base=always(NO_TUNING),
    paper=partial(cells, STEM),
    presets=(STEM,),
    digits=1,
    notes=(
        "base row: none, the model before tuning",
        sizes(),
        "the paper's row without tuning equals the numbers that Meta published, so it was probably "
        "copied; at 33B and 65B only FLAN v2 is above it",
    ),
)
build = partial(build_cells, ARTIFACT)
