"""How often the engine is right on 1,000 simulated result sets of seven findings each."""

from functools import cache

import numpy as np
import pytest
from scipy import stats
from simulated_evidence import CRITERIA, FINDINGS, simulate_sets

from analysis.findings.conclusions import conclude
from analysis.findings.evidence import Evidence

pytestmark = pytest.mark.long

SETS = 1000
ALPHA, POWER = CRITERIA.alpha, CRITERIA.power
MOST = int(stats.binom.isf(0.01, SETS, ALPHA))  # of 1,000, were the rate exactly 5%
LEAST = int(stats.binom.ppf(0.01, SETS, POWER))
ALL = range(1, 8)


@cache
def null_sets() -> list[list[Evidence]]:
    """Return the evidence at each finding's null, a list a finding."""
    return [simulate_sets(k, FINDINGS[k - 1][1], sets=SETS, seed=0) for k in ALL]


def stated(finding: int) -> list[float]:
    """Return the effects that the engine calls detectable: the median of 100 other result sets."""
    sets = simulate_sets(finding, FINDINGS[finding - 1][1], sets=100, seed=1)
    detectable = [[e.detectable(p, CRITERIA) for p in e.measured] for e in sets]
    return [float(value) for value in np.median(np.array(detectable, dtype=np.float64), axis=0)]


def at_detectable(finding: int) -> list[float]:
    """Return the truth in which every part has the effect that is called detectable.

    A test of equality states the smallest margin that it can show, were there no difference.
    """
    found = stated(finding)
    truths = {
        1: lambda: [0.0, 0.0, max(found)],
        2: lambda: [*found[:2], 0.0, found[2]],
        4: lambda: [*found, 3.0],
    }
    return truths.get(finding, lambda: found)()


def test_no_finding_is_called_supported_in_more_than_5_percent_of_sets_where_none_is_true() -> None:
    outcomes = [
        [conclusion.outcome for conclusion in conclude(list(one), CRITERIA)]
        for one in zip(*null_sets(), strict=True)
    ]
    each = [sum(one[k] == "supported" for one in outcomes) for k in range(7)]
    assert max(each) <= MOST, each
    assert sum("supported" in one for one in outcomes) <= MOST  # Holm: of all seven together
    assert sum("contradicted" in one for one in outcomes) <= MOST


@pytest.mark.parametrize("finding", ALL)
def test_an_effect_that_is_called_detectable_is_found_in_80_percent(finding: int) -> None:
    true = simulate_sets(finding, at_detectable(finding), sets=SETS, seed=2)
    others = [sets for k, sets in zip(ALL, null_sets(), strict=True) if k != finding]
    found = 0
    for one, rest in zip(true, zip(*others, strict=True), strict=True):
        first, *_ = conclude([one, *rest], CRITERIA)
        found += first.outcome == "supported"
    assert found >= LEAST, found
