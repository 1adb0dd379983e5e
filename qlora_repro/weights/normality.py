"""Are weights normal? Shapiro-Wilk row by row, as in Appendix F, beside synthetic normal ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from qlora_repro.records import Normality
from qlora_repro.weights.errors import LinearWeight

ALPHA = 0.05  # Appendix F
MAX_ROW_LENGTH = 5000  # values; p is not accurate for longer rows, as scipy says
TAIL_PROBABILITIES = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025)
PROBABILITIES = (
    *TAIL_PROBABILITIES,
    *np.linspace(0.05, 0.95, 19).round(2),
    *(1 - p for p in reversed(TAIL_PROBABILITIES)),
)

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RowTests:
    """What the rows of one weight show. R rows, Q probabilities."""

    p: Vector  # (R,)
    varied: int  # rows that are not constant; the next two are over these
    kurtosis: float
    quantiles: Vector  # (Q,)
    tested: int  # values a row
    columns: int


def measure_normality(
    weights: Sequence[LinearWeight], *, run_id: str, rows: int | None, seed: int
) -> Iterator[Normality]:
    """Yield a record a weight, one for its synthetic control, and at the end one for each in all.

    The control is N(0, 1) of the same shape and goes the same way, so that what the test does to
    normal rows of this length stands beside what it does to the weights. At most `rows` rows of a
    weight are tested, drawn without replacement; None tests all.
    """
    rng = np.random.default_rng(seed)
    by_source: dict[str, list[RowTests]] = {"weights": [], "normal": []}
    for weight in weights:
        sample = _draw_sample(weight.numpy(), rows, rng, axis=0)
        for source, tests in by_source.items():
            values = sample if source == "weights" else rng.standard_normal(sample.shape)
            tests.append(apply_shapiro_wilk(values, rng=rng))
            yield _make_record(tests[-1:], run_id=run_id, source=source, weight=weight)
    for source, tests in by_source.items():
        if tests:
            yield _make_record(tests, run_id=run_id, source=source, weight=None)


def apply_shapiro_wilk(values: Matrix, *, rng: np.random.Generator) -> RowTests:
    """Test each row of a (R, C) matrix; of rows longer than LONGEST, so many columns are drawn.

    A row that is constant is no normal one: its p is 0, and it has no part in the quantiles.
    """
    sample = _draw_sample(values, MAX_ROW_LENGTH, rng, axis=1)
    varies = np.ptp(sample, axis=1) > 0  # (R,)
    varied = sample[varies]
    p, kurtosis, quantiles = np.zeros(len(sample)), 0.0, np.zeros(len(PROBABILITIES))
    if len(varied):
        p[varies] = stats.shapiro(varied, axis=1).pvalue
        centred = varied - varied.mean(axis=1, keepdims=True)
        scaled = centred / centred.std(axis=1, keepdims=True)
        kurtosis, quantiles = float((scaled**4).mean() - 3), np.quantile(scaled, PROBABILITIES)
    return RowTests(
        p=p,
        varied=len(varied),
        kurtosis=kurtosis,
        quantiles=quantiles,
        tested=sample.shape[1],
        columns=values.shape[1],
    )


def rejection_shares(p: Vector) -> tuple[float, float]:
    """Return the shares of rows rejected at 5%, one by one and with Benjamini-Hochberg's step-up.

    One by one, 5% of normal rows are rejected; step-up rejects any of them in 5% of samples.
    """
    return float((p < ALPHA).mean()), float(multipletests(p, ALPHA, method="fdr_bh")[0].mean())


def describe_normality(rows: Sequence[Normality]) -> list[str]:
    """Return in words what the test rejects, beside its rejections of normal rows."""
    return [
        f"normality, {'synthetic control' if row.source == 'normal' else row.source}: "
        f"{row.rejected:.1%} of {row.rows:,} rows rejected at 5%, {row.rejected_fdr:.1%} at a "
        "false discovery rate of 5%, excess kurtosis "
        + ("unknown" if row.kurtosis is None else f"{row.kurtosis:.2f}")
        for row in rows
        if row.role == "all"
    ]


def _make_record(
    tests: Sequence[RowTests], *, run_id: str, source: str, weight: LinearWeight | None
) -> Normality:
    p = np.concatenate([test.p for test in tests])
    rows = np.array([test.varied for test in tests], dtype=np.float64)

    def average(values: list[Any]) -> Any:  # over the rows that vary
        return rows @ np.array(values) / rows.sum()

    known = bool(rows.any())
    alone, step_up = rejection_shares(p)
    return Normality(
        run_id=run_id,
        source=source,
        name=weight.name if weight else "",
        layer=weight.layer if weight else None,
        role=weight.role if weight else "all",
        rows=len(p),
        tested=max(test.tested for test in tests),
        columns=max(test.columns for test in tests),
        rejected=alone,
        rejected_fdr=step_up,
        kurtosis=float(average([test.kurtosis for test in tests])) if known else None,
        probabilities=[float(probability) for probability in PROBABILITIES],
        quantiles=average([test.quantiles for test in tests]).tolist() if known else [],
    )


def _draw_sample(
    values: Matrix, limit: int | None, rng: np.random.Generator, *, axis: int
) -> Matrix:
    """Return at most `limit` rows or columns, in their order."""
    n = values.shape[axis]
    if limit is None or n <= limit:
        return values
    return values.take(np.sort(rng.choice(n, limit, replace=False)), axis=axis)
