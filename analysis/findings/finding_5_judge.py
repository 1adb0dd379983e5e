"""Finding 5: GPT-4's judgments are a cheap proxy for humans, with an order and a self preference.

Tested: the judge agrees with humans beyond chance on systems and on single answers, favours what it
is shown first, and favours itself. The paper's evidence is the verdicts that its authors released;
ours, any language model that judged runs which people judged as well. Verdicts on one question are
about the same answers, so questions are the units of every test.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.artifacts.runs import EvaluatedRun
from analysis.findings.evidence import (
    NOT_LANGUAGE_MODELS,
    RELEASED_JUDGE,
    Criteria,
    Evidence,
    assess_pairs,
    mean_points,
    score_systems,
    verdicts_on_runs,
)
from qlora_repro.stats.agreement import spearman_rho
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
    MissingComparison,
    Part,
    assess_rank_correlation,
)

HUMAN = "human"  # judges named human-1, human-2, ...
FEWEST_SYSTEMS = 5  # a rank correlation of fewer has no interval
MATCH = ["question", "first", "second"]
FAVOURS_FIRST = {"first": 1.0, "tie": 0.0, "second": -1.0}


def evidence_from_paper(verdicts: pd.DataFrame, criteria: Criteria) -> Evidence:
    """Return what the released verdicts show of GPT-4."""
    return Evidence(finding=5, parts=_assess_judge(verdicts, RELEASED_JUDGE, criteria))


def parts_from_runs(
    _runs: Sequence[EvaluatedRun], verdicts: pd.DataFrame, criteria: Criteria
) -> list[Part]:
    """Return what verdicts on our runs show of every language model that gave some."""
    run_verdicts = verdicts_on_runs(verdicts)
    judges = (
        [] if run_verdicts.empty else sorted({*run_verdicts.loc[~_is_human(run_verdicts), "judge"]})
    )
    models = [judge for judge in judges if judge not in NOT_LANGUAGE_MODELS]
    parts = [part for judge in models for part in _assess_judge(run_verdicts, judge, criteria)]
    needs = "verdicts of a language model and of people on the same answers of our runs"
    return parts or [MissingComparison(part="a judge against humans", needs=needs)]


def _is_human(verdicts: pd.DataFrame) -> pd.Series:
    return verdicts["judge"].astype("str").str.startswith(HUMAN)


def _assess_judge(verdicts: pd.DataFrame, judge: str, criteria: Criteria) -> list[Part]:
    """Return the four parts for one judge of pairs; a system of its name is itself."""
    pairwise = verdicts[verdicts["protocol"].astype("str") == "three_class"]
    humans = pairwise[_is_human(pairwise)]
    judged = pairwise[pairwise["judge"].astype("str") == judge]
    benchmarks = judged["benchmark"].astype("str")
    beside_humans = judged[benchmarks.isin(set(humans["benchmark"].astype("str")))]
    return [
        _agreement_on_systems(beside_humans, humans, judge),
        _agreement_on_answers(beside_humans, humans, judge, criteria),
        *(
            _order_effect(of, f"{judge}: shown first over shown second, {benchmark}", criteria)
            for benchmark, of in judged.groupby(benchmarks)
        ),
        _self_preference(beside_humans, humans, judge, criteria),
    ]


def _agreement_on_systems(judged: pd.DataFrame, humans: pd.DataFrame, judge: str) -> Part:
    part = f"{judge} and humans rank systems alike"
    both = pd.concat(
        {"judge": mean_points(judged), "humans": mean_points(humans)}, axis=1, join="inner"
    )
    if len(both) < FEWEST_SYSTEMS:
        needs = f"human verdicts on {FEWEST_SYSTEMS} systems or more; there are {len(both)}"
        return MissingComparison(part=part, needs=needs)
    rho, without = (
        spearman_rho(of["judge"].to_numpy(), of["humans"].to_numpy())
        for of in (both, both.drop(judge, errors="ignore"))
    )
    others = len(both) - (judge in both.index)
    note = f"without {judge} itself it is {without:.2f} over {others}"
    about = ComparisonInfo(part=part, unit="rho", n=len(both), of="systems", notes=(note,))
    return assess_rank_correlation(rho, about, bound=0, above=True)


def _agreement_on_answers(
    judged: pd.DataFrame, humans: pd.DataFrame, judge: str, criteria: Criteria
) -> Part:
    """Compare with the majority of people on matches shown in the same order; no majority: out."""
    part = f"{judge} agrees with the human majority beyond chance"
    votes, verdicts = (
        of[of["verdict"].notna()].astype(dict.fromkeys([*MATCH, "verdict"], "str"))
        for of in (humans, judged)
    )
    counts = votes.groupby([*MATCH, "verdict"]).size().unstack(fill_value=0)
    majority = counts[counts.max(axis=1) * 2 > counts.sum(axis=1)].idxmax(axis=1)
    by_judge = verdicts.drop_duplicates(MATCH).set_index(MATCH)["verdict"]
    both = pd.concat({"people": majority, "judge": by_judge}, axis=1, join="inner").reset_index()
    if both.empty:
        return MissingComparison(part=part, needs="a human and a judge's verdict on the same match")
    shares = [both[name].value_counts(normalize=True) for name in ("people", "judge")]
    chance = float((shares[0] * shares[1]).sum())
    beyond = ((both["people"] == both["judge"]) - chance) / (1 - chance)  # its mean is kappa
    note = f"{len(both):,} matches with a majority; the effect is Cohen's kappa"
    return _assess_by_question(
        beyond.groupby(both["question"]).mean(), (part, "kappa", note), criteria
    )


def _order_effect(judged: pd.DataFrame, part: str, criteria: Criteria) -> Part:
    read = judged[judged["verdict"].notna()].astype(dict.fromkeys([*MATCH, "verdict"], "str"))
    shown = set(zip(read["first"], read["second"], strict=True))
    if not all((second, first) in shown for first, second in shown):
        return MissingComparison(part=part, needs="every pair in both orders")
    favour = 100 * read["verdict"].map(FAVOURS_FIRST).groupby(read["question"]).mean()
    note = f"{len(read):,} verdicts"
    return _assess_by_question(favour, (part, "points of wins", note), criteria)


def _self_preference(
    judged: pd.DataFrame, humans: pd.DataFrame, judge: str, criteria: Criteria
) -> Part:
    part = f"{judge} gives its own answers more than humans do"
    points = [
        scored[scored["system"] == judge].groupby("question", observed=True)["points"].mean()
        for scored in (score_systems(judged), score_systems(humans))
    ]
    both = pd.concat(points, axis=1, join="inner")
    if both.empty:
        needs = f"a system named {judge}, judged by humans as well"
        return MissingComparison(part=part, needs=needs)
    note = "were its eyes better than theirs, it would look the same"
    gains = 100 * (both.iloc[:, 0] - both.iloc[:, 1])
    return _assess_by_question(gains, (part, "points a match, %", note), criteria)


def _assess_by_question(
    values: pd.Series, described: tuple[str, str, str], criteria: Criteria
) -> Part:
    """Ask whether values, one a question, are above zero; `described`: part, unit, note."""
    part, unit, note = described
    if len(values) < 2:
        return MissingComparison(part=part, needs="more than one question")
    about = ComparisonInfo(part=part, unit=unit, n=len(values), of="questions", notes=(note,))
    return assess_pairs(values.to_numpy(np.float64), about, criteria)
