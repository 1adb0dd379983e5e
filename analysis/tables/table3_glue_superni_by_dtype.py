"""Table 3: RoBERTa-large on GLUE, T5 on Super-NaturalInstructions, by data type."""

from functools import partial

from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import (
    HELD_OUT,
    ROUGE,
    STAND_INS,
    Artifact,
    Place,
    always,
    cells,
    offered,
)
from analysis.findings.runs import Run
from qlora_repro.store.load import type_name

STEM = "table3_glue_superni_by_dtype"
SIZES = {"small": "t5_80m", "base": "t5_250m", "large": "t5_780m", "xl": "t5_3b", "xxl": "t5_11b"}
COLUMNS = {f"t5_lm_{size}": column for size, column in SIZES.items()}
ROBERTA = "roberta_large"
TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")  # STS-B is a regression


def method(run: Run) -> str:
    """Return the row of a tuned run, as the paper names it."""
    kind = type_name(run.at("dtype.name"), run.at("dq"))
    if run.at("lora.target") == "none":
        return f"{kind} replication"
    return f"lora {kind}" if kind == "bf16" else f"qlora {kind}"


def places(run: Run) -> list[Place]:
    """Return the cell of a run; RoBERTa's are single tasks, of which the paper prints the mean."""
    if not run.tuned or run.at("lora.target") not in ("all", "none"):
        return []
    if run.model == ROBERTA:
        tasks = run.at("data.tasks") or ["all tasks"]
        return offered(method(run), f"{ROBERTA} {'+'.join(tasks)}", (HELD_OUT,))
    column = COLUMNS.get(run.model, f"{run.model} {run.at('data.name')}")
    return offered(method(run), column, (ROUGE, *(s for s in STAND_INS if s != ROUGE)))


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 3: GLUE and Super-NaturalInstructions by data type",
    heads=("method", "model"),
    places=places,
    varies=("dtype.name", "dtype.scales", "dq", "lora.target"),
    models=(ROBERTA, *COLUMNS),
    scores=(HELD_OUT.task, ROUGE.task),
    base=always("lora bf16"),
    paper=partial(cells, STEM),
    presets=(f"{STEM}_a", f"{STEM}_b"),
    digits=1,
    notes=(
        "base row: lora bf16; GLUE in % accuracy, Super-NaturalInstructions in RougeL",
        f"ours of {ROBERTA}: the mean of {len(TASKS)} tasks of GLUE, without STS-B, which has no "
        "accuracy; the paper does not say which tasks it averages",
        "with T5-11B every row with adapters is 1.1 to 1.3 below full fine-tuning; Int8 with "
        "T5-780M is 1.7 to 2.6 below the rows around it, in single runs",
    ),
    parts={ROBERTA: [f"{ROBERTA} {task}" for task in TASKS]},
)
build = partial(build_cells, ARTIFACT)
