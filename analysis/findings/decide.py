"""From comparisons to one verdict a finding: all must support it, Holm over the seven."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qlora_repro.stats.estimates import Measured, Missing, Part

Word = Literal["supported", "contradicted", "not resolved", "not run"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything one source has on one finding."""

    finding: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> list[Measured]:
        """Return the comparisons that have data and count."""
        return [p for p in self.parts if isinstance(p, Measured) and p.about.required]

    @property
    def missing(self) -> list[Missing]:
        """Return the comparisons that count and have no data."""
        return [p for p in self.parts if isinstance(p, Missing) and p.required]

    @property
    def p_for(self) -> float:
        """Return the p of the whole finding: all parts must hold, so it is their largest.

        A part without data holds nothing: 1.
        """
        if self.missing or not self.measured:
            return 1.0
        return max(part.supports for part in self.measured)

    @property
    def p_against(self) -> float:
        """Return the p that some part fails: the smallest, times how many there are."""
        if not self.measured:
            return 1.0
        smallest = min(part.contradicts for part in self.measured)
        return min(1.0, smallest * len(self.measured))

    def detectable(
        self, part: Measured, *, alpha: float, power: float, family: int
    ) -> float | None:
        """Return the effect of a part at which the whole finding is found with this power.

        It is for the strictest of Holm's steps, and for all parts at once.
        """
        return part.detect(alpha / family, 1 - (1 - power) / max(1, len(self.measured)))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One finding, one source."""

    evidence: Evidence
    word: Word
    p_for: float  # after Holm
    p_against: float


def decide(found: Sequence[Evidence], *, alpha: float) -> list[Verdict]:
    """Give every finding of one source its word; one without data stays in the family at p = 1."""
    adjusted = [holm([e.p_for for e in found]), holm([e.p_against for e in found])]
    return [
        Verdict(
            evidence=evidence,
            word=_word(evidence, float(p_for), float(p_against), alpha),
            p_for=float(p_for),
            p_against=float(p_against),
        )
        for evidence, p_for, p_against in zip(found, *adjusted, strict=True)
    ]


def holm(ps: Sequence[float]) -> NDArray[np.float64]:
    """Return p-values that hold for all of them at once, in their order (Holm 1979).

    As statsmodels' `multipletests` has them, which stops to collect garbage at every call.

    >>> holm([0.02, 0.01, 0.5]).tolist()
    [0.04, 0.03, 0.5]
    """
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _word(evidence: Evidence, p_for: float, p_against: float, alpha: float) -> Word:
    if not evidence.measured:
        return "not run"
    if p_against <= alpha:
        return "contradicted"
    return "supported" if p_for <= alpha else "not resolved"


def alone(part: Measured, *, alpha: float) -> Word:
    """Say what a part shows by itself, without correction."""
    if part.contradicts <= alpha:
        return "contradicted"
    return "supported" if part.supports <= alpha else "not resolved"
