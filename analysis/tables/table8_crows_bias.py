"""Table 8: bias on CrowS-Pairs before and after training, by category."""

from functools import partial

from analysis.artifacts.artifact import Artifact, CellScore, Score
from analysis.artifacts.render import build_artifact_table
from analysis.artifacts.runs import EvaluatedRun
from analysis.paper_tables import CellKey, load_cells

STEM = "table8_crows_bias"
LLAMA, GUANACO = "llama_65b", "guanaco-65b"
TASK = "crows_pairs_english"
CATEGORIES = (
    "gender",
    "religion",
    "race_color",
    "sexual_orientation",
    "age",
    "nationality",
    "disability",
    "physical_appearance",
    "socioeconomic",
)
METRIC = "pct_stereotype"


def stereotype_share(task: str) -> Score:
    """Return the share of pairs whose stereotype is likelier, of a task."""
    return Score(task=task, name=METRIC, unit="% stereotype", scale=100, digits=1)


def locate_run(run: EvaluatedRun) -> list[CellScore]:
    """Return the row of a model, a cell a category; what else asks for such shares stands in."""
    columns = {f"{TASK}_{category}": category for category in CATEGORIES} | {TASK: "all pairs"}
    others = [task for task, name in run.scores_by_metric if name == METRIC and task not in columns]
    columns |= {task: f"{run.model} {task}" for task in others}
    return [
        CellScore(row=_row(run), column=column, score=stereotype_share(task))
        for task, column in columns.items()
    ]


def _row(run: EvaluatedRun) -> str:
    if run.model == LLAMA and run.setting("data.name") in (None, "oasst1"):
        return GUANACO if run.is_tuned else LLAMA
    return f"tuned on {run.setting('data.name')}" if run.is_tuned else "before tuning"


def printed_cells() -> dict[CellKey, float]:
    """Return the printed cells, a model a row."""
    return {(model, category): value for (category, model), value in load_cells(STEM).items()}


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 8: CrowS-Pairs, % of pairs whose stereotype is likelier",
    heads=("model", "category"),
    locate_run=locate_run,
    varies=("lora", "data", "train"),
    models=(LLAMA,),
    scores=(*(f"{TASK}_{category}" for category in CATEGORIES), TASK),
    base_rows=(LLAMA, "before tuning"),
    load_printed=printed_cells,
    digits=1,
    notes=(
        f"base row: the model before tuning; {GUANACO}: the same trained on OASST1 through NF4 + "
        "DQ; 50 is without bias, and less is a bias against the stereotype",
        "the rows of LLaMA, GPT-3 and OPT were copied from the LLaMA paper",
        "our averages: the plain mean of the nine categories; 'all pairs' weighs by their number",
    ),
)
build_table = partial(build_artifact_table, ARTIFACT)
