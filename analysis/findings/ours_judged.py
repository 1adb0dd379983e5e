"""Findings 5 and 6 from the store: verdicts on its runs, and verdicts beside accuracies."""

from collections.abc import Sequence

import pandas as pd

from analysis.findings.judged import FEWEST_SYSTEMS, POINTS, by_people, judge_parts
from analysis.findings.margins import Fixed
from analysis.findings.runs import Run, grouped
from qlora_repro.stats.estimates import About, Missing, Part
from qlora_repro.stats.rank_correlation import agreement, spearman

NO_MODEL = ("reference",)  # judges that overlap with a reference answer, and are no language model


def judging(verdicts: pd.DataFrame, fixed: Fixed) -> list[Part]:
    """Finding 5: every model that judged runs of the store which people judged as well."""
    own = of_runs(verdicts)
    judges = [] if own.empty else sorted(set(own.loc[~by_people(own), "judge"]) - set(NO_MODEL))
    parts = [part for judge in judges for part in judge_parts(own, judge, fixed)]
    needs = "verdicts of a language model and of people on the same answers of our runs"
    return parts or [Missing(part="a judge against humans", needs=needs)]


def of_runs(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts on systems that are runs; those on the paper's are left out."""
    if verdicts.empty:
        return verdicts
    return verdicts[(verdicts["run_first"] != "") | (verdicts["run_second"] != "")]


def benchmarks(runs: Sequence[Run], verdicts: pd.DataFrame, fixed: Fixed) -> list[Part]:
    """Finding 6: accuracy and chat points over data sets that one base was tuned on."""
    accuracy = fixed.accuracy_benchmark
    chat = _points(of_runs(verdicts))

    def same(run: Run) -> object:
        return [run.at(path) for path in ("model", "dtype", "dq", "lora.target", "lora.r")]

    parts: list[Part] = []
    for group in grouped([run for run in runs if run.tuned], same):
        scored = pd.DataFrame(
            {
                "data": run.at("data.name"),
                "accuracy": run.scores(accuracy.task, accuracy.name).mean(),
                "chat": chat.get(run.run_id),
            }
            for run in group
        )
        means = scored.dropna().groupby("data")[["accuracy", "chat"]].mean()
        if len(means) < FEWEST_SYSTEMS:
            continue
        rho = spearman(means["accuracy"].to_numpy(), means["chat"].to_numpy())
        part = f"{accuracy.task} and chat points over data sets, {group[0].model}"
        about = About(part=part, unit="rho", n=len(means), of="datasets")
        parts.append(agreement(rho, about, bound=fixed.same_order, above=False))
    needs = f"{accuracy.task} and verdicts on one base tuned on {FEWEST_SYSTEMS} data sets or more"
    return parts or [Missing(part="an accuracy benchmark and chat points", needs=needs)]


def _points(verdicts: pd.DataFrame) -> "pd.Series[float]":
    """Return the mean points of each run id."""
    if verdicts.empty:
        return pd.Series(dtype="float64")
    said = verdicts[verdicts["verdict"].notna()]
    won = said["verdict"].map(POINTS).astype("float64")
    sides = [
        pd.DataFrame({"run": said[side], "points": score})
        for side, score in (("run_first", won), ("run_second", 1 - won))
    ]
    both = pd.concat(sides)
    return both[both["run"] != ""].groupby("run")["points"].mean()
