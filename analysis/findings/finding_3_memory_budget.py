"""Finding 3: at a fixed memory budget, more parameters at lower precision are better.

Tested: a larger model at 4 bits scores above a smaller one of its family at 16 bits that takes no
less memory. The paper has it in Tables 4 and 6; runs of ours are untuned models of one family in
two sizes, each in NF4 and BF16.
"""

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.artifacts.runs import EvaluatedRun, group_runs, score_matrices
from analysis.findings.evidence import (
    MMLU,
    Criteria,
    Evidence,
    assess_chat_scores,
    assess_pairs,
    score_out_of_ten,
)
from qlora_repro.config.registry import FULL_PRECISION
from qlora_repro.records import PERPLEXITY
from qlora_repro.stats.hypothesis_tests import ComparisonInfo, MissingComparison, Part


def evidence_from_paper(verdicts: pd.DataFrame, criteria: Criteria) -> Evidence:
    """Return each LLaMA at 4 bits against the next smaller one at 16, twice its memory.

    Beside it stand chat scores of a 33B model at 4 bits (21 GB) and a 13B one at 16 (26 GB).
    """
    chat = score_out_of_ten(verdicts)
    return Evidence(
        finding=3,
        parts=(
            MMLU.assess_gains(
                "next larger LLaMA at 4 bits over the smaller at 16, MMLU (Table 4)",
                MMLU.row("nf4 + dq")[2:] - MMLU.row("bf16")[:-2],  # two cells a size
                criteria,
                notes=("weights of the larger take about half as much; 8 bits were not run",),
            ),
            assess_chat_scores(
                chat["guanaco-33b"] - chat["vicuna-13b"],
                "Guanaco 33B at 4 bits over Vicuna 13B at 16, chat scores (Table 6)",
                criteria,
                required=False,
                note="their training data differ too",
            ),
        ),
    )


def parts_from_runs(
    runs: Sequence[EvaluatedRun], _verdicts: pd.DataFrame, criteria: Criteria
) -> list[Part]:
    """Return each untuned model at 4 bits against the largest smaller one of no less memory."""
    parts: list[Part] = []
    untuned = [run for run in runs if not run.is_tuned]
    for group in group_runs(untuned, lambda run: model_family(run.model)):
        full_precision = [run for run in group if run.setting("dtype.name") in FULL_PRECISION]
        for large in (run for run in group if run.setting("dtype.name") == "nf4"):
            counterpart = next((run for run in full_precision if run.model == large.model), None)
            smaller = [
                run
                for run in full_precision
                if counterpart and run.model != large.model
                if large.model_bits <= run.model_bits < counterpart.model_bits
            ]
            if smaller:
                rival = max(smaller, key=lambda run: run.model_bits)
                parts += _compare_accuracies(large, rival, criteria)
    return parts or [
        MissingComparison(
            part="a larger model at 4 bits over a smaller one at 16",
            needs="accuracies of untuned models of one family in two sizes, each in NF4 and BF16",
        )
    ]


def model_family(model: str) -> str:
    """Return a model's name without its size.

    >>> model_family("opt_1b3"), model_family("smollm2_135m_base"), model_family("llama3_2_1b")
    ('opt', 'smollm2_base', 'llama3_2')
    """
    return re.sub(r"_\d+[bm]\d*", "", model)


def _compare_accuracies(
    large: EvaluatedRun, small: EvaluatedRun, criteria: Criteria
) -> Iterator[Part]:
    for score in criteria.scores:
        matrices = score_matrices([{0: large}, {0: small}], score.task, score.name)
        if score.task == PERPLEXITY or not matrices or matrices[0].shape[1] < 2:
            continue
        gains = (matrices[0] - matrices[1])[0] * score.scale
        about = ComparisonInfo(
            part=f"{large.model} in NF4 over {small.model} in 16 bits, {score.task}",
            unit=criteria.margins[score.margin].unit,
            n=len(gains),
            of="questions",
            notes=(f"{large.model_bits / 8e9:.2f} GB against {small.model_bits / 8e9:.2f} GB",),
        )
        yield assess_pairs(gains, about, criteria)
