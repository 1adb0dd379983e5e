"""Finding 7: how many layers get adapters is what counts in LoRA; the rank r is not.

Tested: scores are spread further between placements than between ranks, and adapters on all layers
beat a narrower placement with no fewer parameters. The paper has it in Figures 2 and 4;
experiments/finding7_placement.yaml makes runs of ours.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.artifacts.runs import EvaluatedRun, group_runs, shared_training_settings
from analysis.findings.evidence import (
    CROSSED_TEST,
    Criteria,
    Evidence,
    FactorGrid,
    MarginScore,
    build_grid,
    compare_spreads,
    printed_row,
)
from analysis.paper_tables import load_grid
from qlora_repro.stats.estimates import (
    Estimate,
    FactorLevels,
    estimate_crossed_mean,
    pool_noise,
)
from qlora_repro.stats.hypothesis_tests import (
    ComparisonInfo,
    MissingComparison,
    Part,
    assess_equivalence,
    assess_larger_spread,
    assess_superiority,
)
from qlora_repro.stats.intervals import Array

PLACEMENTS = ("all", "ffn", "attention")
ALL = "all"


def evidence_from_paper(_verdicts: pd.DataFrame, criteria: Criteria) -> Evidence:
    """Return placements of Figure 2 against ranks of Figure 4."""
    groups = [printed_row("fig2_lora_coverage", f"qlora {name}") for name in PLACEMENTS]
    placements = FactorLevels(
        means=np.array([group.mean() for group in groups]),
        variance=sum(float(group.var(ddof=1)) for group in groups) / len(groups) / len(groups[0]),
        df=sum(len(group) - 1 for group in groups),
    )
    fig4 = load_grid("fig4_lora_rank")
    n, sd = (fig4[name].to_numpy(np.float64) for name in ("n", "sd"))
    ranks = FactorLevels(
        means=fig4["mean"].to_numpy(np.float64),
        variance=float((sd**2 / n).mean()),
        df=float(sum(n - 1)),
    )
    about = ComparisonInfo(
        part="spread between placements (Figure 2) over that between ranks (Figure 4)",
        unit="RougeL points, sd",
        n=int(sum(len(group) for group in groups) + n.sum()),
        of="runs",
        seeds=4,
    )
    needs = "such a control: Figure 2 has one rank, Figure 4 one placement"
    return Evidence(
        finding=7,
        parts=(
            assess_larger_spread(placements, ranks, about),
            MissingComparison(
                part="all layers over a narrower placement with no fewer parameters", needs=needs
            ),
            _compare_printed_ranks(fig4.loc[["8", "64"]], criteria),
        ),
    )


def _compare_printed_ranks(ranks: pd.DataFrame, criteria: Criteria) -> Part:
    change = float(ranks["mean"].iloc[1] - ranks["mean"].iloc[0])
    se = math.sqrt(float((ranks["sd"] ** 2 / ranks["n"]).sum()))
    about = ComparisonInfo(
        part="r = 64 against r = 8 (Figure 4)",
        unit="RougeL points",
        n=int(ranks["n"].sum()),
        of="runs",
        seeds=3,
        required=False,
    )
    estimate = Estimate(effect=change, se=se, df=float(ranks["n"].sum()) - 2)
    margin = criteria.margins["alpaca"].value
    return assess_equivalence(estimate, about, margin=margin, test="Welch's t")


def parts_from_runs(
    runs: Sequence[EvaluatedRun], _verdicts: pd.DataFrame, criteria: Criteria
) -> list[Part]:
    """Return placements against ranks, and all layers against as many parameters in fewer."""
    parts: list[Part] = []
    adapted = [run for run in runs if run.is_tuned and run.setting("lora.r")]
    for group in group_runs(adapted, _settings_but_adapters):
        grid = build_grid(
            group,
            lambda run: str(run.setting("lora.target")),
            lambda run: str(run.setting("lora.r")),
        )
        if grid.is_complete(criteria):
            model = group[0].model
            parts += compare_spreads(grid, ("placements", "ranks"), model, criteria)
            parts += _compare_controls(grid, model, criteria)
    needs = f"every placement in every rank, all layers among them, {criteria.fewest_seeds} seeds"
    return parts or [
        MissingComparison(part="placements against ranks, parameters matched", needs=needs)
    ]


def _settings_but_adapters(run: EvaluatedRun) -> list[object]:
    lora = {k: v for k, v in (run.setting("lora") or {}).items() if k not in ("target", "r")}
    same = [run.setting(name) for name in ("model", "dtype", "dq", "data")]
    return [*same, shared_training_settings(run), lora]


def _compare_controls(grid: FactorGrid, model: str, criteria: Criteria) -> list[Part]:
    if ALL not in grid.rows:
        needs = "adapters on all layers in the same ranks"
        return [MissingComparison(part=f"all layers over fewer, {model}", needs=needs)]
    return [
        part
        for score, cells in grid.score_cells(criteria)
        for part in _compare_controls_by_score(grid, (score, cells), model, criteria)
    ]


def _compare_controls_by_score(
    grid: FactorGrid, scored: tuple[MarginScore, Array], model: str, criteria: Criteria
) -> Iterator[Part]:
    score, cells = scored  # (rows, columns, S, Q)
    margin, (seeds, questions) = criteria.margins[score.margin], cells.shape[2:]
    noise = pool_noise(list(cells.reshape(-1, seeds, questions)))
    floor = noise.floor(seeds)

    def describe(part: str, **more: Any) -> ComparisonInfo:
        named = f"{part}, {model}, {score.task}"
        return ComparisonInfo(
            part=named, unit=margin.unit, n=questions, of="questions", seeds=seeds, **more
        )

    def cell(row: str, rank: str) -> Array:
        return np.asarray(cells[grid.rows.index(row), grid.columns.index(rank)])

    for row in grid.rows:
        if row == ALL:
            continue
        part = f"all layers over {row} with no fewer parameters"
        matched = match_parameters(grid, row)
        if matched is None:
            yield MissingComparison(part=describe(part).part, needs=f"a larger rank of {row}")
            continue
        wide, narrow, note = matched
        gains = estimate_crossed_mean(cell(ALL, wide) - cell(row, narrow), noise)
        about = describe(part, notes=(note,))
        yield assess_superiority(gains, about, test=CROSSED_TEST, floor=floor)
    lowest, *_, highest = sorted(grid.columns, key=int)
    change = estimate_crossed_mean(cell(ALL, highest) - cell(ALL, lowest), noise)
    about = describe(f"r = {highest} against r = {lowest}, all layers", required=False)
    yield assess_equivalence(change, about, margin=margin.value, test=CROSSED_TEST, floor=floor)


def match_parameters(grid: FactorGrid, row: str) -> tuple[str, str, str] | None:
    """Return the ranks of all layers and of `row` that match best, and a note on them.

    The row has no fewer parameters than all layers, and the least surplus; None where its ranks
    are too small.
    """

    def parameters(placement: str, rank: str) -> int:
        return grid.any_run(placement, rank).trainable or 0

    surplus = {
        (wide, narrow): parameters(row, narrow) / parameters(ALL, wide)
        for wide in grid.columns
        for narrow in grid.columns
        if parameters(row, narrow) >= parameters(ALL, wide) > 0
    }
    if not surplus:
        return None
    wide, narrow = min(surplus, key=lambda pair: surplus[pair])
    note = f"r = {wide} against r = {narrow}, {surplus[wide, narrow]:.2f} times the parameters"
    return wide, narrow, note
