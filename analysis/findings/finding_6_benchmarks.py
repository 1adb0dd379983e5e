"""Finding 6: benchmarks cannot be trusted to agree: MMLU and chat rank data differently.

Tested: the rank correlation over training sets of an accuracy benchmark with chat scores is below
what two forms of one test would have. The paper has it in Tables 5 and 6 and in the released
verdicts; ours needs MMLU and verdicts on one base tuned on several data sets.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.artifacts.runs import EvaluatedRun, group_runs
from analysis.findings.evidence import (
    BILLIONS,
    RELEASED_JUDGE,
    TABLE5,
    Criteria,
    Evidence,
    mean_points,
    score_out_of_ten,
    verdicts_on_runs,
)
from analysis.paper_tables import LLAMA_MODELS, load_grid
from qlora_repro.stats.agreement import spearman_rho
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
    MissingComparison,
    Part,
    assess_rank_correlation,
)
from qlora_repro.stats.intervals import Array

FEWEST_DATASETS = 5  # a rank correlation of fewer has no interval
SAME = ("model", "dtype", "dq", "lora.target", "lora.r")  # of the base that data are tuned on
RELEASED_NAMES = {  # as Table 5 names data, and as systems tuned on them are named
    "self_instruct": "self-instruct",
    "longform": "longform",
    "chip2": "chip2",
    "hh_rlhf": "hh-rlhf",
    "unnatural": "unnatural-instructions",
    "oasst1": "guanaco",
    "alpaca": "alpaca",
    "flan_v2": "flan",
}


def evidence_from_paper(verdicts: pd.DataFrame, criteria: Criteria) -> Evidence:
    """Return MMLU of Table 5 against chat scores over eight datasets, and Vicuna against OA."""
    chat = score_out_of_ten(verdicts).mean()
    scores = np.array(
        [[chat[f"{name}-{size}"] for size in BILLIONS] for name in RELEASED_NAMES.values()]
    )
    mmlu = load_grid(TABLE5).loc[list(RELEASED_NAMES), list(LLAMA_MODELS)].to_numpy(np.float64)
    by_size = ", ".join(
        f"{size} {spearman_rho(mmlu[:, k], scores[:, k]):.2f}" for k, size in enumerate(BILLIONS)
    )
    about = ComparisonInfo(
        part="MMLU (Table 5) and GPT-4's Vicuna scores over datasets, means of four sizes",
        unit="rho",
        n=len(RELEASED_NAMES),
        of="datasets",
        notes=(f"by size: {by_size}",),
    )
    means = np.column_stack([mmlu.mean(axis=1), scores.mean(axis=1)])
    parts = _compare_orders(means, about, criteria), _vicuna_against_oa(verdicts, criteria)
    return Evidence(finding=6, parts=parts)


def _vicuna_against_oa(verdicts: pd.DataFrame, criteria: Criteria) -> Part:
    pairwise = verdicts["protocol"] == "three_class"
    judged = verdicts[pairwise & (verdicts["judge"] == RELEASED_JUDGE)]
    points = [mean_points(judged[judged["benchmark"] == name]) for name in ("vicuna", "oa")]
    both = pd.concat(points, axis=1, join="inner").to_numpy(np.float64)
    about = ComparisonInfo(
        part="GPT-4's order of systems on Vicuna and on OA questions",
        unit="rho",
        n=len(both),
        of="systems",
        required=False,
    )
    return _compare_orders(both, about, criteria)


def _compare_orders(scores: Array, about: ComparisonInfo, criteria: Criteria) -> Part:
    """Ask whether two scores of each system or data set, (N, 2), order them otherwise."""
    rho = spearman_rho(scores[:, 0], scores[:, 1])
    return assess_rank_correlation(rho, about, bound=criteria.same_order, above=False)


def parts_from_runs(
    runs: Sequence[EvaluatedRun], verdicts: pd.DataFrame, criteria: Criteria
) -> list[Part]:
    """Return accuracy against chat points over data sets that one base was tuned on."""
    accuracy = criteria.accuracy_benchmark
    chat = mean_points(verdicts_on_runs(verdicts), names="run_")
    parts: list[Part] = []
    tuned = [run for run in runs if run.is_tuned]
    for group in group_runs(tuned, lambda run: [run.setting(path) for path in SAME]):
        scores = pd.DataFrame(
            {
                "data": run.setting("data.name"),
                "accuracy": run.scores(accuracy.task, accuracy.name).mean(),
                "chat": chat.get(run.run_id),
            }
            for run in group
        )
        means = scores.dropna().groupby("data")[["accuracy", "chat"]].mean()
        if len(means) >= FEWEST_DATASETS:
            about = ComparisonInfo(
                part=f"{accuracy.task} and chat points over data sets, {group[0].model}",
                unit="rho",
                n=len(means),
                of="datasets",
            )
            parts.append(_compare_orders(means.to_numpy(np.float64), about, criteria))
    needs = f"{accuracy.task} and verdicts on one base tuned on {FEWEST_DATASETS} data sets or more"
    return parts or [MissingComparison(part="an accuracy benchmark and chat points", needs=needs)]
