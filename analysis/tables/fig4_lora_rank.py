"""Figure 4: RougeL by the rank of adapters on all layers."""

from functools import partial

from analysis.artifacts.artifact import ROUGE, ROUGE_FIRST, Artifact, CellScore, cell_scores
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun
from analysis.paper_tables import CellKey, load_column

STEM = "fig4_lora_rank"
MODEL = "llama_7b"
COLUMN = "alpaca, mean of runs"


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the cell of a run with adapters: its rank."""
    rank, target = run.setting("lora.r"), run.setting("lora.target")
    if not run.is_tuned or not rank:
        return []
    if run.model != MODEL or run.setting("data.name") != "alpaca":
        column = f"{run.model} {run.setting('data.name')}, adapters on {target}"
    else:
        column = COLUMN if target == "all" else f"alpaca, {target}"
    return cell_scores(str(rank), column, ROUGE_FIRST)


def printed_means() -> dict[CellKey, float]:
    """Return the mean at each rank."""
    return {(rank, COLUMN): mean for rank, mean in load_column(STEM, "mean").items()}


ARTIFACT = Artifact(
    stem=STEM,
    title="Figure 4: RougeL by the rank r of adapters on all layers, LLaMA-7B on Alpaca",
    heads=("r", "model and data"),
    locate_run=locate_run,
    varies=("lora.r",),
    models=(MODEL,),
    scores=(ROUGE.task,),
    base_rows=(),
    load_printed=printed_means,
    digits=2,
    notes=(
        "base row: the smallest r; lora.alpha is the same at every r, so that the scale of an "
        "update, alpha / r, falls with r",
        "paper: means of 15 or 16 runs at each r, with a standard deviation of 0.30 to 0.33 and "
        "between 63.97 and 65.05, decoded from the figure",
    ),
)
build_table = partial(build_artifact_table, ARTIFACT)
