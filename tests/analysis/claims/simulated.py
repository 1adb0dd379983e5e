"""Result sets whose truth is known, one piece a finding, in the shapes that a store has them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.findings.decide import Evidence
from analysis.findings.margins import fixed
from qlora_repro.stats.estimates import (
    About,
    Measured,
    crossed,
    equivalence,
    paired_superiority,
    plain,
    pooled_noise,
    stacked,
    superiority,
)
from qlora_repro.stats.rank_correlation import agreement, spearman
from qlora_repro.stats.variance import balanced, more_spread

Array = NDArray[np.float64]
HELD = replace(fixed(), resamples=1999)  # the least p is far below 0.05 / 7
T_ONLY = 10**9  # a t-test instead of sign flips: scipy's resampling takes most of the time
SURE = 100.0  # an effect that is found whenever it is looked for


def about(n: int, **more: object) -> About:
    return replace(About(part="", unit="", n=n, of=""), **more)


def runs(effects: Sequence[float], rng: np.random.Generator, *, seeds: int) -> Array:
    """Draw scores (arms, S, Q=120): questions and seeds differ, and what arms make of them."""
    arms, questions = len(effects), 120
    draw = [((1, 1, questions), 20), ((1, seeds, 1), 2), ((arms, seeds, 1), 1)]
    draw += [((arms, 1, questions), 5), ((arms, seeds, questions), 20)]
    noise = sum(rng.normal(0, scale, shape) for shape, scale in draw)
    return np.asarray(effects)[:, None, None] + noise


def trained_alike(truth: Sequence[float], rng: np.random.Generator) -> list[Measured]:
    """Finding 1: two differences to rivals, and the margin (the last)."""
    first, second, margin = truth
    grids = runs([0, -first, -second, 3], rng, seeds=5)
    noise = pooled_noise(stacked(list(grids)))
    floor = noise.floor(5)
    return [
        equivalence(
            crossed(grids[0] - rival, noise), about(120), margin=margin, test="", floor=floor
        )
        for rival in grids[1:3]
    ]


def best_type(truth: Sequence[float], rng: np.random.Generator) -> list[Measured]:
    """Finding 2: gains over two types, then double quantization's cost, and its margin."""
    over_fp4, over_int4, cost, margin = truth
    windows = rng.normal([over_fp4, over_int4, cost], 1.0, (60, 3))
    gains = [
        paired_superiority(windows[:, k], about(60), resamples=99, fewest=T_ONLY) for k in (0, 1)
    ]
    return [*gains, equivalence(plain(windows[:, 2]), about(60), margin=margin, test="")]


def larger_model(truth: Sequence[float], rng: np.random.Generator) -> list[Measured]:
    """Finding 3: by sign flips of 40 questions."""
    gained = rng.normal(truth[0], 1.0, 40)
    return [paired_superiority(gained, about(40), resamples=HELD.resamples, fewest=12)]


def grid(truth: Sequence[float], rng: np.random.Generator) -> Array:
    """Draw run means (4 rows, 3 columns, 3 seeds); `truth`: the sd of rows' and columns' means."""
    rows = np.array([-1.0, 1.0, -1.0, 1.0]) * np.sqrt(3) / 2 * truth[0]
    columns = np.array([-1.0, 0.0, 1.0]) * truth[1]
    return rows[:, None, None] + columns[:, None] + rng.normal(0, 1.0, (4, 3, 3))


def kinds(truth: Sequence[float], rng: np.random.Generator) -> list[Measured]:
    """Finding 4: spread of kinds; sizes have a spread of `truth[1]`."""
    cells = grid([np.sqrt(truth[0] ** 2 + truth[1] ** 2), truth[1]], rng)
    return [more_spread(balanced(cells, 0), balanced(cells, 1), about(36))]


def correlated(rho: float, n: int, rng: np.random.Generator) -> float:
    """Draw n pairs whose ranks correlate by rho in the long run; return what these show."""
    r = 2 * np.sin(np.pi / 6 * rho)  # Pearson's of normal pairs
    x, noise = rng.normal(size=(2, n))
    return spearman(x, r * x + np.sqrt(1 - r**2) * noise)


def judge(truth: Sequence[float], rng: np.random.Generator) -> list[Measured]:
    """Finding 5: rank correlation with people, then three means over questions."""
    ranks = agreement(correlated(truth[0], 8, rng), about(8), bound=0, above=True)
    each = rng.normal(truth[1:], 1.0, (60, 3))
    rest = [
        paired_superiority(each[:, k], about(60), resamples=99, fewest=T_ONLY) for k in range(3)
    ]
    return [ranks, *rest]


def disagreement(truth: Sequence[float], rng: np.random.Generator) -> list[Measured]:
    """Finding 6: a correlation over eight data sets."""
    rho = correlated(truth[0], 8, rng)
    return [agreement(rho, about(8), bound=HELD.same_order, above=False)]


def layers(truth: Sequence[float], rng: np.random.Generator) -> list[Measured]:
    """Finding 7: spread of placements over ranks, then all layers over two controls."""
    spread = kinds([truth[0], 0.5], rng)
    grids = runs([0, -truth[1], -truth[2], *[1] * 5], rng, seeds=3)
    noise = pooled_noise(stacked(list(grids)))
    controls = [
        superiority(crossed(grids[0] - other, noise), about(120), test="", floor=noise.floor(3))
        for other in grids[1:3]
    ]
    return [*spread, *controls]


Simulate = Callable[[Sequence[float], np.random.Generator], list[Measured]]
FINDINGS: list[tuple[Simulate, list[float]]] = [  # with a truth at which one part just fails
    (trained_alike, [20.0, 0.0, 20.0]),
    (best_type, [0.0, SURE, 0.0, SURE]),
    (larger_model, [0.0]),
    (kinds, [0.0, 3.0]),
    (judge, [0.999, 0.0, SURE, SURE]),
    (disagreement, [HELD.same_order]),
    (layers, [SURE, 0.0, SURE]),
]


def draw(finding: int, truth: Sequence[float], *, sets: int, seed: int) -> list[Evidence]:
    """Return the evidence on one finding in so many result sets."""
    rng = np.random.default_rng([finding, seed])
    simulate = FINDINGS[finding - 1][0]
    return [Evidence(finding=finding, parts=tuple(simulate(truth, rng))) for _ in range(sets)]
