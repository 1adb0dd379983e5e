"""What a sample group's scores show: its mean, and its difference from the base row with noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from analysis.artifacts.artifact import ComparableGroups, SampleGroup
from analysis.artifacts.runs import score_matrices
from qlora_repro.stats.estimates import (
    Estimate,
    Noise,
    average_estimates,
    estimate_crossed_mean,
    estimate_mean,
    pool_noise,
)
from qlora_repro.stats.intervals import Array, Interval, wilson_interval

UNKNOWN_NOISE = Noise(variance=math.nan, df=0)


class Direction(StrEnum):
    """What a difference from the base row shows."""

    HIGHER = "higher"
    LOWER = "lower"
    NOT_RESOLVED = "not resolved"
    NO_REPEATS = "not resolved, no repeats"


@dataclass(frozen=True, kw_only=True)
class MeanScore:
    """A mean score, in the table's unit."""

    value: float
    estimate: Estimate | None  # of the mean; None: of one question nothing is known
    interval: Interval | None  # 95%
    n: int  # questions, or windows of a text
    unscored: int  # answers without a score, left out


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far a group's score is from that of the base row, on the same seeds and questions."""

    estimate: Estimate
    noise_floor: float | None  # the 95% range of a difference between repeats; None: no repeats

    @property
    def direction(self) -> Direction:
        """What the numbers can tell: a difference within noise, or whose interval has 0, cannot."""
        low, high = self.estimate.interval()
        if low <= 0 <= high or abs(self.estimate.effect) <= (self.noise_floor or 0):
            return Direction.NOT_RESOLVED
        if self.noise_floor is None:
            return Direction.NO_REPEATS
        return Direction.HIGHER if self.estimate.effect > 0 else Direction.LOWER


def measure_group(group: SampleGroup) -> MeanScore:
    """Return a group's mean over seeds and questions."""
    (shares,) = _matrices([group])
    scale = group.score.scale
    answers = [run.scores(group.score.task, group.score.name) for run in group.runs.values()]
    estimate = _estimate(shares * scale, UNKNOWN_NOISE)
    return MeanScore(
        value=float((shares * scale).mean()),
        estimate=estimate,
        interval=_wilson_interval(shares, scale) or _finite_interval(estimate),
        n=shares.shape[1],
        unscored=int(sum(values.isna().sum() for values in answers)),
    )


def _wilson_interval(scores: Array, scale: float) -> Interval | None:
    """Return Wilson's interval of right answers, (S, Q), in one run or the same in all of them.

    Student's would be a single point where all are wrong, and leave [0, 1] where few are right.
    None where it is no share, or where seeds differ.
    """
    if not np.isin(scores, (0, 1)).all() or (scores != scores[0]).any():
        return None
    low, high = wilson_interval(int(scores[0].sum()), scores.shape[1])
    return scale * low, scale * high


def _finite_interval(estimate: Estimate | None) -> Interval | None:
    interval = (math.nan, math.nan) if estimate is None else estimate.interval()
    return interval if math.isfinite(interval[0]) else None


def estimate_noise(comparable: ComparableGroups) -> Noise:
    """Return how far repeats differ: what is left of tuned groups' means beside group and seed."""
    tuned = [group for group in comparable.groups if group.is_tuned]
    matrices = _matrices(tuned) if len(tuned) > 1 else []
    if matrices and matrices[0].shape[0] > 1:
        return pool_noise([matrix * comparable.score.scale for matrix in matrices])
    repeated = [group for group in tuned if len(group.runs) > 1]
    if len(repeated) != 1:
        return UNKNOWN_NOISE
    means = seed_means(repeated[0])  # it alone has repeats: another would have as much noise
    return Noise(variance=2 * float(means.var(ddof=1)), df=len(means) - 1)


def estimate_effect(group: SampleGroup, base: SampleGroup, noise: Noise) -> Effect | None:
    """Return the difference from the base; None where no seed and question is common to both."""
    matrices = _matrices([group, base])
    if not matrices or matrices[0].shape[1] < 2:
        return None
    differences = (matrices[0] - matrices[1]) * group.score.scale
    estimate = _estimate(differences, noise if group.is_tuned and base.is_tuned else UNKNOWN_NOISE)
    assert estimate is not None
    if not (group.is_tuned or base.is_tuned):
        return Effect(estimate=estimate, noise_floor=0.0)  # a repeat gives the same
    known = math.isfinite(noise.variance)
    return Effect(estimate=estimate, noise_floor=noise.floor(len(differences)) if known else None)


def _estimate(scores: Array, noise: Noise) -> Estimate | None:
    seeds, questions = scores.shape
    if questions < 2:
        return None
    if seeds < 2:
        return estimate_mean(scores[0])
    return estimate_crossed_mean(scores, noise if math.isfinite(noise.variance) else None)


def _matrices(groups: Sequence[SampleGroup]) -> list[Array]:
    """Return scores (S, Q) of each group; an untuned model has the same for every seed."""
    seeds = {seed for group in groups if group.is_tuned for seed in group.runs} or {0}
    by_seed = [
        group.runs if group.is_tuned else dict.fromkeys(seeds, next(iter(group.runs.values())))
        for group in groups
    ]
    return score_matrices(by_seed, groups[0].score.task, groups[0].score.name)


def average_means(means: Sequence[MeanScore]) -> MeanScore:
    """Return the mean of cells, each weighing the same, as the margins of a table have it."""
    known = [mean.estimate for mean in means if mean.estimate is not None]
    estimate = average_estimates(known) if len(known) == len(means) else None
    return MeanScore(
        value=float(np.mean([mean.value for mean in means])),
        estimate=estimate,
        interval=_finite_interval(estimate),
        n=sum(mean.n for mean in means),
        unscored=sum(mean.unscored for mean in means),
    )


def seed_means(group: SampleGroup) -> Array:
    """Return the mean of each seed, (S,), in the table's unit."""
    (scores,) = _matrices([group])
    return np.asarray(scores.mean(axis=1) * group.score.scale, dtype=np.float64)
