"""Finding 1: NF4 QLoRA matches 16-bit LoRA and 16-bit full fine-tuning.

Tested: tuned through NF4 + DQ, a score differs by less than its margin from either. The paper has
it in Tables 3 and 4 and Figure 2; experiments/finding1_precision.yaml makes runs of ours.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.artifacts.runs import EvaluatedRun
from analysis.findings.evidence import (
    CROSSED_TEST,
    MMLU,
    QLORA,
    ROUGE,
    Criteria,
    Evidence,
    TunedMethods,
    group_tuned_methods,
    printed_row,
)
from qlora_repro.stats.estimates import estimate_crossed_mean, estimate_group_difference, pool_noise
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
    MissingComparison,
    Part,
    assess_equivalence,
)

RIVALS = ("16-bit LoRA", "full fine-tuning")


def evidence_from_paper(_verdicts: pd.DataFrame, criteria: Criteria) -> Evidence:
    """Return the paper's comparisons of NF4 + DQ with 16-bit LoRA and full fine-tuning."""
    nf4, lora = ROUGE.row("qlora nf4 + dq"), ROUGE.row("lora bf16")
    full = ROUGE.row("bf16 replication")
    full = np.where(np.isnan(full), ROUGE.row("bf16 published"), full)
    return Evidence(
        finding=1,
        parts=(
            MMLU.assess_equivalence(
                "NF4 + DQ against 16-bit LoRA, MMLU (Table 4)",
                MMLU.row("nf4 + dq") - MMLU.row("bf16"),
                criteria,
            ),
            *(
                ROUGE.assess_equivalence(
                    f"NF4 + DQ against {rival}, Super-NaturalInstructions (Table 3)",
                    nf4 - scores,
                    criteria,
                )
                for rival, scores in zip(RIVALS, (lora, full), strict=True)
            ),
            _assess_figure2(criteria),
        ),
        notes=(
            "no LLaMA was fully fine-tuned for MMLU, and NF4 was not run on GLUE",
            "T5-11B: every adapter row of Table 3 is 1.1 to 1.3 below full fine-tuning",
        ),
    )


def _assess_figure2(criteria: Criteria) -> Part:
    qlora, full = (
        printed_row("fig2_lora_coverage", row) for row in ("qlora all", "16-bit full tuned")
    )
    about = ComparisonInfo(
        part="4-bit QLoRA against tuned full fine-tuning, Alpaca (Figure 2)",
        unit="RougeL points",
        n=len(qlora) + len(full),
        of="runs",
        notes=(f"{len(qlora)} and {len(full)} seeds",),
    )
    estimate = estimate_group_difference(qlora, full)
    margin = criteria.margins["alpaca"].value
    return assess_equivalence(estimate, about, margin=margin, test="Welch's t")


def parts_from_runs(
    runs: Sequence[EvaluatedRun], _verdicts: pd.DataFrame, criteria: Criteria
) -> list[Part]:
    """Return our comparisons with 16-bit LoRA and full fine-tuning, same data, steps and seeds."""
    parts = [
        part
        for tuned in group_tuned_methods(runs)
        for rival in RIVALS
        for part in _compare_with_rival(tuned, rival, criteria)
    ]
    needs = f"tuned runs of each on one model and data set, at least {criteria.fewest_seeds} seeds"
    return parts or [MissingComparison(part=f"{QLORA} against {' and '.join(RIVALS)}", needs=needs)]


def _compare_with_rival(tuned: TunedMethods, rival: str, criteria: Criteria) -> list[Part]:
    """Return a part a score that both methods have; noise is pooled over all methods."""
    pair = f"{QLORA} against {rival}, {tuned.label}"
    if rival not in tuned.runs:
        return [MissingComparison(part=pair, needs="its runs")]
    others = [method for method in tuned.runs if method not in (QLORA, rival)]
    parts: list[Part] = []
    for score, about, matrices in tuned.compare_scores(
        f"{QLORA} against {rival}", (QLORA, rival, *others), criteria
    ):
        seeds, questions = matrices[0].shape
        if seeds < criteria.fewest_seeds or questions < 2:
            needs = f"{criteria.fewest_seeds} seeds in every arm; {seeds} are there"
            parts.append(MissingComparison(part=about.part, needs=needs))
            continue
        noise = pool_noise(matrices)
        parts.append(
            assess_equivalence(
                estimate_crossed_mean(matrices[0] - matrices[1], noise),
                about,
                margin=criteria.margins[score.margin].value,
                test=CROSSED_TEST,
                floor=noise.floor(seeds),
            )
        )
    needs = "answers of the same questions in both arms"
    return parts or [MissingComparison(part=pair, needs=needs)]
