"""Elo over many random orderings of the matches (Section 5.3, Tables 1 and 7).

The paper states start 1000 and K = 32; which settings give its numbers is in `elo.yaml`: K = 4 on
the Vicuna benchmark, K = 32 on OA. Ratings are in Elo: 400 more are odds of ten to one. They are
kept in single precision, which is good to a thousandth of an Elo after thousands of matches.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from analysis.ranking.orderings import seated, steps
from analysis.ranking.tally import Counts
from qlora_repro.errors import ConfigError

SETTINGS = Path(__file__).with_name("elo.yaml")
WIDTH = 10_000  # orderings in a block: many, so that Python's share of the time is small
NATURAL = math.log(10) / 400  # Elo to natural log-odds
HALF_TO_POINT = 0.5
Z = 1.96
Ratings = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EloSetting:
    """How matches become ratings; the paper leaves some of it open."""

    start: float
    k: float  # the most that one match moves a rating
    ties: str  # "half": half a win each; "left_out": no match
    matches: int | None  # of an ordering; None: all there are
    replacement: bool  # whether a match may come twice in an ordering
    orderings: int
    seed: int


def setting(preset: str, benchmark: str, **changes: Any) -> EloSetting:
    """Return a preset's setting for a benchmark; ConfigError for one that there is not."""
    stored = yaml.safe_load(SETTINGS.read_text())
    presets = stored.pop("k")
    if preset not in presets:
        raise ConfigError(f"there is no Elo preset {preset!r}; there is {', '.join(presets)}")
    if benchmark not in presets[preset]:
        known = ", ".join(presets[preset])
        raise ConfigError(f"{preset} has no K for the benchmark {benchmark!r}; it has {known}")
    made = EloSetting(**stored, k=presets[preset][benchmark])
    return replace(made, **changes)


def over_orderings(counts: Counts, n: int, how: EloSetting) -> Ratings:
    """Return the ratings of N systems after each ordering: (orderings, N), in rounds of WIDTH.

    `counts` (P, 3) are of `tally`, or (orderings, P, 3) with matches of its own for each ordering.
    ConfigError where an ordering wants more matches than there are.
    """
    counts = _with_ties(counts, how)
    there = int(counts.sum(axis=(-2, -1)).min())
    if there == 0:
        raise ConfigError("there are no matches with a verdict to rate systems by")
    if how.matches is not None and how.matches > there and not how.replacement:
        raise ConfigError(
            f"matches is {how.matches:,}, and there are {there:,}; ask for fewer or set replacement"
        )
    if how.replacement and how.matches is None:
        how = replace(how, matches=there)
    rng = np.random.Generator(np.random.SFC64(how.seed))
    rated = [_block(counts, lanes, n=n, how=how, rng=rng) for lanes in _blocks(how.orderings)]
    return np.concatenate(rated)


def _block(
    counts: Counts, lanes: slice, *, n: int, how: EloSetting, rng: np.random.Generator
) -> Ratings:
    """Play one block of W orderings; return (W, N)."""
    seats = seated(lanes.stop - lanes.start, n, rng)
    own = counts if counts.ndim == 2 else counts[lanes]
    at = np.zeros(seats.shape, dtype=np.float32)  # (N, W) natural log-odds above the start, by seat
    k = np.float32(how.k * NATURAL)
    expected, change = np.empty((2, seats.shape[1]), dtype=np.float32)
    for step in steps(own, seats, matches=how.matches, replacement=how.replacement, rng=rng):
        first, second = at[step.first], at[step.second]
        np.subtract(second, first, out=expected)
        np.exp(expected, out=expected)
        expected += 1
        np.divide(k, expected, out=expected)
        np.multiply(step.points, k * np.float32(HALF_TO_POINT), out=change)
        change -= expected
        if step.played is not None:
            change *= step.played
        first += change
        second -= change
    ratings = np.empty_like(at)
    np.put_along_axis(ratings, seats, at, axis=0)
    return ratings.T.astype(np.float64) / NATURAL + how.start


def _blocks(orderings: int) -> Iterator[slice]:
    for start in range(0, orderings, WIDTH):
        yield slice(start, min(start + WIDTH, orderings))


def _with_ties(counts: Counts, how: EloSetting) -> Counts:
    if how.ties == "half":
        return counts
    if how.ties != "left_out":
        raise ConfigError(f"ties is {how.ties!r}; it may be half or left_out")
    decided: Counts = counts * np.array([1, 0, 1])
    return decided


def monte_carlo(ratings: Ratings) -> Ratings:
    """Return half the 95% interval of the mean over orderings, (N,): the paper's +-1.

    It says how well so many random orderings are averaged, not how sure the ratings are.
    """
    half: Ratings = Z * ratings.std(axis=0, ddof=1) / math.sqrt(len(ratings))
    return half
