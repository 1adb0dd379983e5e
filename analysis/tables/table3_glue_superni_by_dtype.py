"""Table 3: RoBERTa-large on GLUE, T5 on Super-NaturalInstructions, by data type."""

from functools import partial

from analysis.artifacts.artifact import (
    HELD_OUT,
    ROUGE,
    ROUGE_FIRST,
    Artifact,
    CellScore,
    cell_scores,
)
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun
from qlora_repro.store.load import type_name

STEM = "table3_glue_superni_by_dtype"
SIZES = {"small": "t5_80m", "base": "t5_250m", "large": "t5_780m", "xl": "t5_3b", "xxl": "t5_11b"}
COLUMNS = {f"t5_lm_{size}": column for size, column in SIZES.items()}
ROBERTA = "roberta_large"
TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")  # STS-B is a regression


def method_label(run: EvaluatedRun) -> str:
    """Return the row of a tuned run, as the paper names it."""
    kind = type_name(run.setting("dtype.name"), run.setting("dq"))
    if run.setting("lora.target") == "none":
        return f"{kind} replication"
    return f"lora {kind}" if kind == "bf16" else f"qlora {kind}"


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the cell of a run; RoBERTa's are single tasks, of which the paper prints the mean."""
    if not run.is_tuned or run.setting("lora.target") not in ("all", "none"):
        return []
    if run.model == ROBERTA:
        tasks = run.setting("data.tasks") or ["all tasks"]
        return cell_scores(method_label(run), f"{ROBERTA} {'+'.join(tasks)}", (HELD_OUT,))
    column = COLUMNS.get(run.model, f"{run.model} {run.setting('data.name')}")
    return cell_scores(method_label(run), column, ROUGE_FIRST)


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 3: GLUE and Super-NaturalInstructions by data type",
    heads=("method", "model"),
    locate_run=locate_run,
    varies=("dtype.name", "dtype.scales", "dq", "lora.target"),
    models=(ROBERTA, *COLUMNS),
    scores=(HELD_OUT.task, ROUGE.task),
    base_rows=("lora bf16",),
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
build_table = partial(build_artifact_table, ARTIFACT)
