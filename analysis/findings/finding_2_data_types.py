"""Finding 2: NF4 is better than FP4 and Int4, and double quantization is free.

Tested: NF4 scores above FP4 and above Int4, and double quantization changes NF4 by less than its
margin. The paper has it in Tables 2 to 4; runs of ours come from
experiments/table2_perplexity_by_dtype.yaml and, after tuning, from finding1_precision.yaml.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from analysis.artifacts.runs import EvaluatedRun, group_runs, score_matrices
from analysis.findings.evidence import (
    CROSSED_TEST,
    MMLU,
    QLORA,
    ROUGE,
    Criteria,
    Evidence,
    assess_pairs,
    group_tuned_methods,
)
from qlora_repro.records import LOSS, PERPLEXITY
from qlora_repro.stats.estimates import estimate_crossed_mean, estimate_mean, pool_noise
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
    MissingComparison,
    Part,
    assess_equivalence,
    assess_superiority,
)

PAPER_BLOCKSIZE = 64
RIVALS = {"NF4 over FP4": "fp4", "NF4 over Int4": "int4", "NF4 + DQ against NF4": "nf4"}
RIVAL = "FP4 + DQ"  # after tuning
Pair = tuple[EvaluatedRun, EvaluatedRun]


def evidence_from_paper(_verdicts: pd.DataFrame, criteria: Criteria) -> Evidence:
    """Return the paper's comparisons of NF4 with FP4, and what it does not print."""
    return Evidence(
        finding=2,
        parts=(
            MMLU.assess_gains(
                "NF4 + DQ over FP4, MMLU (Table 4)",
                MMLU.row("nf4 + dq") - MMLU.row("fp4"),
                criteria,
            ),
            ROUGE.assess_gains(
                "NF4 + DQ over FP4, Super-NaturalInstructions (Table 3)",
                ROUGE.row("qlora nf4 + dq") - ROUGE.row("qlora fp4"),
                criteria,
            ),
            MissingComparison(
                part="NF4 over Int4, perplexity (Table 2)",
                needs="perplexities of single models: Table 2 prints one mean a type, without a "
                "spread",
            ),
            MissingComparison(
                part="NF4 + DQ against NF4",
                needs="a score of NF4 without double quantization: no table has one",
            ),
        ),
        notes=("Table 2's means: NF4 + DQ 27.41, E3M0 29.48, E2M1 31.07, Int4 34.34",),
    )


def parts_from_runs(
    runs: Sequence[EvaluatedRun], _verdicts: pd.DataFrame, criteria: Criteria
) -> list[Part]:
    """Return our comparisons of types on untuned models and, beside them, after tuning."""
    return [*_compare_untuned(runs, criteria), *_compare_tuned(runs, criteria)]


def _compare_untuned(runs: Sequence[EvaluatedRun], criteria: Criteria) -> list[Part]:
    """Compare types on the text on which most of a model's pairs are; of equal ones the longest."""
    best: dict[str, tuple[tuple[int, int], dict[str, Pair | None]]] = {}
    untuned = [r for r in runs if not r.is_tuned and len(r.scores(PERPLEXITY, LOSS))]
    for group in group_runs(untuned, lambda run: run.setting("model")):
        pairs = {question: _pair_types(group, rival) for question, rival in RIVALS.items()}
        count = sum(pair is not None for pair in pairs.values())
        weight = count, max(len(run.scores(PERPLEXITY, LOSS)) for run in group)
        if count and weight > best.get(group[0].model, ((0, 0), {}))[0]:
            best[group[0].model] = weight, pairs
    parts = [
        _compare_pair(question, pair, model, criteria)
        for model, (_, pairs) in best.items()
        for question, pair in pairs.items()
    ]
    return parts or [
        MissingComparison(
            part="NF4 over FP4 and Int4, and NF4 + DQ against NF4",
            needs="perplexities of an untuned model in these types, as "
            "experiments=table2_perplexity_by_dtype scale=small measures them",
        )
    ]


def _pair_types(group: Sequence[EvaluatedRun], rival: str) -> Pair | None:
    """Return (NF4, rival) with the same blocks and backend; for NF4 itself with and without DQ."""

    def by_storage(dtype: str) -> dict[tuple[object, object, bool], EvaluatedRun]:
        of_type = [run for run in group if run.setting("dtype.name") == dtype]
        return {
            (r.setting("dtype.blocksize"), r.setting("dtype.backend"), r.setting("dq")): r
            for r in of_type
        }

    nf4, other = by_storage("nf4"), by_storage(rival)
    if rival == "nf4":
        other = {(block, backend, True): run for (block, backend, dq), run in nf4.items() if not dq}
    both = sorted(nf4.keys() & other.keys(), key=lambda key: (key[0] != PAPER_BLOCKSIZE, str(key)))
    return (nf4[both[0]], other[both[0]]) if both else None


def _compare_pair(question: str, pair: Pair | None, model: str, criteria: Criteria) -> Part:
    part = f"{question}, {model}, perplexity"
    if pair is None:
        needs = "both of them, in the same blocks, through one backend"
        return MissingComparison(part=part, needs=needs)
    matrices = score_matrices([{0: run} for run in pair], PERPLEXITY, LOSS)
    if not matrices or matrices[0].shape[1] < 2:
        needs = "both on the same text, of two windows or more"
        return MissingComparison(part=part, needs=needs)
    gains = (matrices[1] - matrices[0])[0]  # (Q,): less loss is better
    about = ComparisonInfo(part=part, unit="nats a token", n=len(gains), of="windows of text")
    if "against" in question:
        margin = criteria.margins["quantized_loss"].value
        return assess_equivalence(estimate_mean(gains), about, margin=margin, test="paired t")
    return assess_pairs(gains, about, criteria)


def _compare_tuned(runs: Sequence[EvaluatedRun], criteria: Criteria) -> Iterator[Part]:
    """Yield a part a score that both types have after tuning; none counts for the finding."""
    for tuned in group_tuned_methods(runs):
        if RIVAL not in tuned.runs:
            continue
        question = f"{QLORA} over {RIVAL}"
        for _, about, matrices in tuned.compare_scores(question, (QLORA, RIVAL), criteria):
            seeds = matrices[0].shape[0]
            if seeds >= criteria.fewest_seeds:
                gains = estimate_crossed_mean(matrices[0] - matrices[1])
                floor = pool_noise(matrices).floor(seeds)
                beside = replace(about, required=False)
                yield assess_superiority(gains, beside, test=CROSSED_TEST, floor=floor)
