"""Are weights normal? Shapiro-Wilk row by row, as in Appendix F, beside synthetic normal ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from qlora_repro.records import Normality
from qlora_repro.weights.matrices import Weight

ALPHA = 0.05  # Appendix F
LONGEST = 5000  # values; p is not accurate for longer rows, as scipy says
TAIL = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025)
PROBABILITIES = (*TAIL, *np.linspace(0.05, 0.95, 19).round(2), *(1 - p for p in reversed(TAIL)))

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What the rows of one weight show. R rows, Q probabilities."""

    p: Vector  # (R,)
    varied: int  # rows that are not constant; the next two are over these
    kurtosis: float
    quantiles: Vector  # (Q,)
    tested: int  # values a row
    columns: int


def normality(
    weights: Sequence[Weight], *, run_id: str, rows: int | None, seed: int
) -> Iterator[Normality]:
    """Yield a record a weight, one for its synthetic control, and at the end one for each in all.

    The control is N(0, 1) of the same shape and goes the same way, so that what the test does to
    normal rows of this length stands beside what it does to the weights. At most `rows` rows of a
    weight are tested, drawn without replacement; None tests all.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[Tested]] = {"weights": [], "normal": []}
    for weight in weights:
        values = _drawn(weight.numpy(), rows, rng, axis=0)
        for source in found:
            drawn = values if source == "weights" else rng.standard_normal(values.shape)
            tested = examine(drawn, rng=rng)
            found[source].append(tested)
            yield _record([tested], run_id=run_id, source=source, weight=weight)
    for source, parts in found.items():
        if parts:
            yield _record(parts, run_id=run_id, source=source, weight=None)


def examine(values: Matrix, *, rng: np.random.Generator) -> Tested:
    """Test each row of a (R, C) matrix; of rows longer than LONGEST, so many columns are drawn.

    A row that is constant is no normal one: its p is 0, and it has no part in the quantiles.
    """
    drawn = _drawn(values, LONGEST, rng, axis=1)
    spread = np.ptp(drawn, axis=1) > 0  # (R,)
    p = np.zeros(len(drawn))
    p[spread] = stats.shapiro(drawn[spread], axis=1).pvalue if spread.any() else 0.0
    whole = values[spread]
    centred = whole - whole.mean(axis=1, keepdims=True)
    scaled = centred / centred.std(axis=1, keepdims=True)
    return Tested(
        p=p,
        varied=len(whole),
        kurtosis=float((scaled**4).mean() - 3) if len(whole) else 0.0,
        quantiles=np.quantile(scaled, PROBABILITIES)
        if len(whole)
        else np.zeros(len(PROBABILITIES)),
        tested=drawn.shape[1],
        columns=values.shape[1],
    )


def rejected(p: Vector) -> tuple[float, float]:
    """Return the shares of rows rejected at 5%, one by one and with Benjamini-Hochberg's step-up.

    One by one, 5% of normal rows are rejected; step-up rejects any of them in 5% of samples.
    """
    return float((p < ALPHA).mean()), float(multipletests(p, ALPHA, method="fdr_bh")[0].mean())


def _record(
    parts: Sequence[Tested], *, run_id: str, source: str, weight: Weight | None
) -> Normality:
    p = np.concatenate([part.p for part in parts])
    sizes = np.array([part.varied for part in parts], dtype=np.float64)
    known = bool(sizes.any())
    quantiles = sizes @ np.array([part.quantiles for part in parts]) / sizes.sum() if known else []
    kurtosis = sizes @ np.array([part.kurtosis for part in parts]) / sizes.sum() if known else None
    alone, step_up = rejected(p)
    return Normality(
        run_id=run_id,
        source=source,
        name=weight.name if weight else "",
        layer=weight.layer if weight else None,
        role=weight.role if weight else "all",
        rows=len(p),
        tested=max(part.tested for part in parts),
        columns=max(part.columns for part in parts),
        rejected=alone,
        rejected_fdr=step_up,
        kurtosis=None if kurtosis is None else float(kurtosis),
        probabilities=[float(probability) for probability in PROBABILITIES],
        quantiles=[float(quantile) for quantile in quantiles],
    )


def _drawn(values: Matrix, most: int | None, rng: np.random.Generator, *, axis: int) -> Matrix:
    """Return at most so many rows or columns, in their order."""
    n = values.shape[axis]
    if most is None or n <= most:
        return values
    return values.take(np.sort(rng.choice(n, most, replace=False)), axis=axis)
