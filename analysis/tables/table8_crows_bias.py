"""Table 8: bias on CrowS-Pairs before and after training, by category."""

from collections.abc import Sequence
from functools import partial

from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import Artifact, Key, Place, Score, always, cells
from analysis.findings.runs import Run

STEM = "table8_crows_bias"
LLAMA, GUANACO = "llama_65b", "guanaco-65b"
TASK = "crows_pairs_english"
CATEGORIES = (
    *("gender", "religion", "race_color", "sexual_orientation", "age", "nationality"),
    *("disability", "physical_appearance", "socioeconomic"),
)


def score(task: str) -> Score:
    """Return the share of pairs whose stereotype is likelier, of a task."""
    return Score(task=task, name="pct_stereotype", unit="% stereotype", scale=100, digits=1)


def places(run: Run) -> list[Place]:
    """Return the row of a model, a cell a category; what else asks for such shares stands in."""
    row = _row(run)
    own = [
        Place(row=row, column=category, score=score(f"{TASK}_{category}"))
        for category in CATEGORIES
    ]
    own.append(Place(row=row, column="all pairs", score=score(TASK)))
    others = [task for task, name in run.measured() if name == "pct_stereotype"]
    known = {place.score.task for place in own}
    return own + [
        Place(row=row, column=f"{run.model} {task}", score=score(task))
        for task in others
        if task not in known
    ]


def _row(run: Run) -> str:
    if run.model == LLAMA and run.at("data.name") in (None, "oasst1"):
        return GUANACO if run.tuned else LLAMA
    return f"tuned on {run.at('data.name')}" if run.tuned else "before tuning"


def base(rows: Sequence[str]) -> str | None:
    """Return the untuned model's row."""
    return always(LLAMA)(rows) or always("before tuning")(rows)


def paper() -> dict[Key, float]:
    """Return the printed cells, a model a row."""
    return {(model, category): value for (category, model), value in cells(STEM).items()}


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 8: CrowS-Pairs, % of pairs whose stereotype is likelier",
    heads=("model", "category"),
    places=places,
    varies=("lora", "data", "train"),
    models=(LLAMA,),
    scores=(*(f"{TASK}_{category}" for category in CATEGORIES), TASK),
    base=base,
    paper=paper,
    presets=(STEM,),
    digits=1,
    notes=(
        f"base row: the model before tuning; {GUANACO}: the same trained on OASST1 through NF4 + "
        "DQ; 50 is without bias, and less is a bias against the stereotype",
        "the rows of LLaMA, GPT-3 and OPT were copied from the LLaMA paper",
        "our averages: the plain mean of the nine categories; 'all pairs' weighs by their number",
    ),
)
build = partial(build_cells, ARTIFACT)
