"""The seven findings from the paper's printed numbers and released verdicts."""

import pandas as pd

from analysis.findings import printed, printed_spreads, released
from analysis.findings.decide import Evidence
from analysis.findings.judged import judge_parts
from analysis.findings.margins import Fixed


def evidence(verdicts: pd.DataFrame, fixed: Fixed) -> list[Evidence]:
    """Return what the paper has on each finding; `verdicts` as qlora_repro.store.verdicts reads."""
    return [
        Evidence(
            finding=1,
            parts=tuple(printed.matches_16_bit(fixed)),
            notes=(
                "no LLaMA was fully fine-tuned for MMLU, and NF4 was not run on GLUE",
                "T5-11B: every adapter row of Table 3 is 1.1 to 1.3 below full fine-tuning",
            ),
        ),
        Evidence(
            finding=2,
            parts=tuple(printed.nf4_is_best(fixed)),
            notes=("Table 2's means: NF4 + DQ 27.41, E3M0 29.48, E2M1 31.07, Int4 34.34",),
        ),
        Evidence(
            finding=3,
            parts=(
                *printed.larger_at_4_bits(fixed),
                released.guanaco_33b_over_vicuna_13b(verdicts, fixed),
            ),
        ),
        Evidence(
            finding=4,
            parts=(
                *printed_spreads.kind_over_size(),
                released.small_good_over_large(verdicts, fixed),
            ),
        ),
        Evidence(finding=5, parts=tuple(judge_parts(verdicts, released.JUDGE, fixed))),
        Evidence(finding=6, parts=tuple(released.chat_and_mmlu(verdicts, fixed))),
        Evidence(finding=7, parts=tuple(printed_spreads.placement_over_rank(fixed))),
    ]
