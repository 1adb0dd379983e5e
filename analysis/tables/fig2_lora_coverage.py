"""Figure 2: RougeL by where LoRA goes, beside full fine-tuning."""

from functools import partial

from analysis.artifacts.artifact import ROUGE, ROUGE_FIRST, Artifact, CellScore, cell_scores
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun
from analysis.paper_tables import CellKey, load_table

STEM = "fig2_lora_coverage"
MODEL = "llama_7b"
COLUMN = "alpaca, mean of points"
STANFORD = 128  # rows a step, by which Stanford's settings are known


def placement_label(run: EvaluatedRun) -> str:
    """Return where the adapters are, as the figure's csv has it, or how all was tuned."""
    target, dtype = str(run.setting("lora.target")), run.setting("dtype.name")
    if target == "none":
        stanford = run.setting("train.batch_size") == STANFORD
        return "16-bit full stanford" if stanford else "16-bit full tuned"
    return f"{'qlora' if dtype == 'nf4' else dtype} {target}"


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the bar of a tuned run."""
    if not run.is_tuned:
        return []
    data = run.setting("data.name")
    column = COLUMN if (run.model, data) == (MODEL, "alpaca") else f"{run.model} {data}"
    return cell_scores(placement_label(run), column, ROUGE_FIRST)


def printed_points() -> dict[str, list[float]]:
    """Return the points of each bar, by row, in the figure's order."""
    by_row = load_table(STEM).groupby("row", sort=False)["value"]
    return {str(row): points.tolist() for row, points in by_row}


def printed_means() -> dict[CellKey, float]:
    """Return the mean of each bar's points."""
    return {(row, COLUMN): sum(of) / len(of) for row, of in printed_points().items()}


ARTIFACT = Artifact(
    stem=STEM,
    title="Figure 2: RougeL by where adapters go, LLaMA-7B on Alpaca",
    heads=("adapters", "model and data"),
    locate_run=locate_run,
    varies=("dtype.name", "dtype.scales", "dq", "lora.target", "train.batch_size"),
    models=(MODEL,),
    scores=(ROUGE.task,),
    base_rows=("qlora all",),
    load_printed=printed_means,
    digits=2,
    notes=(
        "base row: qlora all, adapters on all linear layers of a block",
        "paper: means of 4 points with adapters, of 2 of full fine-tuning, decoded from the "
        "figure; points of one bar lie within 0.1 but for Stanford's settings (1.5)",
        "the paper's text speaks of query and value alone, and draws no such bar",
    ),
)
build_table = partial(build_artifact_table, ARTIFACT)
