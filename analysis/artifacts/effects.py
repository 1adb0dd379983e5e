"""What the scores of an arm say: its mean, and its difference from the base row with the noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.artifacts.grouping import Arm, Block
from analysis.findings.runs import Run, matrices
from qlora_repro.stats.estimates import Estimate, Noise, crossed, plain, pooled_noise, stacked
from qlora_repro.stats.paired import wilson

Array = NDArray[np.float64]
UNKNOWN = Noise(variance=math.nan, df=0)


@dataclass(frozen=True, kw_only=True)
class Level:
    """A mean score, in the table's unit."""

    value: float
    spread: Estimate | None  # of the mean; None: of one question nothing is known
    interval: tuple[float, float] | None  # 95%
    n: int  # questions, or windows of a text
    unscored: int  # answers without a score, left out


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far an arm's score is from that of the base row, on the same seeds and questions."""

    found: Estimate
    floor: float | None  # the 95% range of a difference between repeats; None: no repeats

    @property
    def verdict(self) -> str:
        """What the numbers can tell: a difference within noise, or whose interval has 0, cannot."""
        low, high = self.found.interval()
        if low <= 0 <= high or (self.floor is not None and abs(self.found.effect) <= self.floor):
            return "not resolved"
        if self.floor is None:
            return "not resolved, no repeats"
        return "higher" if self.found.effect > 0 else "lower"


def level(arm: Arm) -> Level:
    """Return an arm's mean over seeds and questions."""
    (scores,) = [grid * arm.score.scale for grid in _grids([arm])]
    answers = [run.scores(arm.score.task, arm.score.name) for run in arm.runs.values()]
    spread = _estimate(scores, UNKNOWN)
    return Level(
        value=float(scores.mean()),
        spread=spread,
        interval=_share(scores / arm.score.scale, arm.score.scale) or _interval(spread),
        n=scores.shape[1],
        unscored=int(sum(values.isna().sum() for values in answers)),
    )


def _share(scores: Array, scale: float) -> tuple[float, float] | None:
    """Return Wilson's interval of right answers, (S, Q), in one run or the same in all of them.

    Student's would be a single point where all are wrong, and leave [0, 1] where few are right.
    None where it is no share, or where seeds differ.
    """
    if not np.isin(scores, (0, 1)).all() or (scores != scores[0]).any():
        return None
    low, high = wilson(int(scores[0].sum()), scores.shape[1])
    return scale * low, scale * high


def _interval(spread: Estimate | None) -> tuple[float, float] | None:
    low, high = (math.nan, math.nan) if spread is None else spread.interval()
    return (low, high) if math.isfinite(low) else None


def noise_of(block: Block) -> Noise:
    """Return how far repeats differ: what is left of the tuned arms' means beside arm and seed."""
    tuned = [arm for arm in block.arms if arm.tuned]
    grids = _grids(tuned) if len(tuned) > 1 else []
    if not grids or grids[0].shape[0] < 2:
        return _noise_of_one(tuned, block)
    return pooled_noise(stacked([grid * block.score.scale for grid in grids]))


def _noise_of_one(tuned: Sequence[Arm], block: Block) -> Noise:
    """Return the noise of an arm that alone has repeats, as if another had as much."""
    repeated = [arm for arm in tuned if len(arm.runs) > 1]
    if len(repeated) != 1:
        return UNKNOWN
    means = repeats(repeated[0])
    return Noise(variance=2 * float(means.var(ddof=1)), df=len(means) - 1)


def effect(arm: Arm, base: Arm, noise: Noise) -> Effect | None:
    """Return the difference from the base; None where no seed and question is common to both."""
    grids = _grids([arm, base])
    if not grids or grids[0].shape[1] < 2:
        return None
    gained = (grids[0] - grids[1]) * arm.score.scale
    found = _estimate(gained, noise if arm.tuned and base.tuned else UNKNOWN)
    assert found is not None
    if not (arm.tuned or base.tuned):
        return Effect(found=found, floor=0.0)  # nothing was drawn: a repeat gives the same
    known = math.isfinite(noise.variance)
    return Effect(found=found, floor=noise.floor(len(gained)) if known else None)


def _estimate(values: Array, noise: Noise) -> Estimate | None:
    seeds, questions = values.shape
    if questions < 2:
        return None
    if seeds < 2:
        return plain(values[0])
    return crossed(values, noise if math.isfinite(noise.variance) else None)


def _grids(arms: Sequence[Arm]) -> list[Array]:
    """Return scores (S, Q) an arm; an untuned one, which no seed changes, is there for each."""
    seeds = {seed for arm in arms if arm.tuned for seed in arm.runs} or {0}
    by_seed: list[dict[int, Run]] = [
        dict(arm.runs) if arm.tuned else dict.fromkeys(seeds, next(iter(arm.runs.values())))
        for arm in arms
    ]
    score = arms[0].score
    return matrices(by_seed, score.task, score.name)


def averaged(levels: Sequence[Level]) -> Level:
    """Return the mean of cells, each weighing the same, as the margins of a table have it."""
    spreads = [one.spread for one in levels]
    known = [spread for spread in spreads if spread is not None]
    combined = Estimate(
        effect=float(np.mean([one.value for one in levels])),
        se=math.sqrt(sum(spread.se**2 for spread in known)) / len(levels),
        df=min((spread.df for spread in known), default=math.nan),
    )
    return Level(
        value=combined.effect,
        spread=combined if len(known) == len(levels) else None,
        interval=_interval(combined) if len(known) == len(levels) else None,
        n=sum(one.n for one in levels),
        unscored=sum(one.unscored for one in levels),
    )


def repeats(arm: Arm) -> Array:
    """Return the mean of each seed, (S,), in the table's unit."""
    (scores,) = _grids([arm])
    return np.asarray(scores.mean(axis=1) * arm.score.scale, dtype=np.float64)
