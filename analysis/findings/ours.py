"""The seven findings from a results folder."""

from pathlib import Path

import pandas as pd

from analysis.findings import ours_factors, ours_judged, ours_precision
from analysis.findings.decide import Evidence
from analysis.findings.margins import Fixed
from analysis.findings.runs import load
from qlora_repro.stats.estimates import Part
from qlora_repro.store.load import records


def evidence(root: Path | None, fixed: Fixed) -> list[Evidence]:
    """Return what the store has on each finding; None: there is none. StoreError for no folder."""
    runs = load(root) if root else []
    verdicts = records(root, "judgments") if root else pd.DataFrame()
    parts: list[list[Part]] = [
        ours_precision.matches_16_bit(runs, fixed),
        [*ours_precision.nf4_is_best(runs, fixed), *ours_precision.tuned_fp4(runs, fixed)],
        ours_precision.larger_at_4_bits(runs, fixed),
        ours_factors.kind_over_size(runs, fixed),
        ours_judged.judging(verdicts, fixed),
        ours_judged.benchmarks(runs, verdicts, fixed),
        ours_factors.placement_over_rank(runs, fixed),
    ]
    notes = tuple(dict.fromkeys(f"{run.model}: {run.note}" for run in runs if run.note))
    return [
        Evidence(finding=k, parts=tuple(found), notes=notes) for k, found in enumerate(parts, 1)
    ]
