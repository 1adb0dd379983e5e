"""Table 4: 5-shot MMLU of LLaMA with adapters, by data type."""

from functools import partial

from analysis.artifacts.artifact import MMLU, MMLU_FIRST, Artifact, CellScore, cell_scores
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun
from analysis.paper_tables import LLAMA_MODELS
from qlora_repro.store.load import type_name

STEM = "table4_mmlu_by_dtype"


def method_label(run: EvaluatedRun) -> str:
    """Return the data type of a tuned run; where every weight trained, that is said."""
    dtype = type_name(run.setting("dtype.name"), run.setting("dq"))
    return f"{dtype} full fine-tuning" if run.setting("lora.target") == "none" else dtype


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the cell of a run with adapters on all layers, or without any."""
    if not run.is_tuned or run.setting("lora.target") not in ("all", "none"):
        return []
    column = f"{run.model} {run.setting('data.name')}"
    return cell_scores(method_label(run), column, MMLU_FIRST)


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 4: 5-shot MMLU by data type, LLaMA with adapters",
    heads=("data type", "model and data"),
    locate_run=locate_run,
    varies=("dtype.name", "dtype.scales", "dq", "lora.target"),
    models=LLAMA_MODELS,
    scores=(MMLU.task,),
    base_rows=("bf16",),
    digits=1,
    notes=(
        "base row: bf16, adapters on a 16-bit model",
        "the paper's cells are single runs; those that it prints again in Table 5 differ by up to "
        "0.7, which is a noise floor of its own",
        "FP4 is below BF16 in 6 of the paper's 8 cells",
    ),
)
build_table = partial(build_artifact_table, ARTIFACT)
