"""Random orderings of matches, thousands at a time, as columns of arrays.

Sequential play cannot be vectorised over matches, only over orderings, and orderings that differ
play different pairs at the same time: their ratings would have to be gathered and scattered. Here W
orderings share one random sequence of *seats*, and each has the systems sit down in a random
order of its own. So a step is a few operations on whole rows, and yet each ordering is a uniformly
random one, for three reasons:

- Every pair of seats occurs as often as the most frequent pair of systems has matches; a pair with
  fewer matches passes at times, at random ones. A random order of matches and passes is a random
  order of matches.
- Who sits where is independent of the sequence, and any seating of a uniformly random sequence of
  pairs is one.
- Which of a pair's matches comes next is drawn without replacement, for each ordering anew.

Orderings of one block are not quite independent of each other, as the sequence of seats is theirs
together. Its effect on a rating averages out over seatings to first order; means of blocks of the
released verdicts scatter as much as those of independent orderings (a test compares them).

Elo over many random orderings of the matches (Section 5.3, Tables 1 and 7).

The paper states start 1000 and K = 32; which settings give its numbers is in `elo.yaml`: K = 4 on
the Vicuna benchmark, K = 32 on OA. Ratings are in Elo: 400 more are odds of ten to one. They are
kept in single precision, which is good to a thousandth of an Elo after thousands of matches.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from analysis.ranking.tally import Counts, pair_numbers
from qlora_repro.errors import ConfigError

STEPS = 256  # whose random bits are drawn at once
BITS = 1 << 16  # resolution of a draw


class Step(NamedTuple):
    """One match in every ordering of a block; the arrays are overwritten by the next step."""

    first: int  # seats
    second: int
    points: NDArray[np.int8]  # (W,) twice what the first seat scores: 0, 1 or 2
    played: NDArray[np.bool_] | None  # (W,) False: passed; None: all play


def seated(orderings: int, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return which system sits on which seat: (N, W)."""
    rows = np.tile(np.arange(n, dtype=np.intp), (orderings, 1))
    return np.ascontiguousarray(rng.permuted(rows, axis=1).T)


def steps(
    counts: Counts,
    seats: NDArray[np.intp],
    *,
    matches: int | None,
    replacement: bool,
    rng: np.random.Generator,
) -> Iterator[Step]:
    """Yield the steps of one block of W orderings of N systems, sitting as `seats` (N, W) says.

    `counts` are (P, 3), or (W, P, 3) with matches of its own for every ordering. An ordering ends
    after `matches` matches, None: when all are played.
    """
    n, width = seats.shape
    pool = _Pool(counts, seats)
    pairs = list(zip(*(seat.tolist() for seat in np.triu_indices(n, 1)), strict=True))
    done = np.zeros(width, dtype=np.int64)
    for sequence in _sequences(len(pairs), pool.size, replacement=replacement, rng=rng):
        draws = _draws(len(sequence), width, rng)
        for pair, draw in zip(sequence, draws, strict=True):
            points, played = pool.next(pair, draw, keep=replacement)
            if matches is not None:
                open_ = done < matches
                played = open_ if played is None else played & open_
                done += played
            yield Step(first=pairs[pair][0], second=pairs[pair][1], points=points, played=played)
        if matches is not None and (done >= matches).all():
            return


class _Pool:
    """The matches that are left: of each pair of seats, (P, W) by what its first seat scores."""

    def __init__(self, counts: Counts, seats: NDArray[np.intp]) -> None:
        n, width = seats.shape
        first, second = (seats[side] for side in np.triu_indices(n, 1))  # (P, W) systems
        pair = pair_numbers(n)[first, second]  # (P, W)
        of = counts[pair] if counts.ndim == 2 else counts[np.arange(width), pair]  # (P, W, 3)
        self.size = int(of.sum(axis=2).max())
        wins = np.where(first < second, of[..., 0], of[..., 2])
        self.wins = wins.astype(np.float32)
        self.unlost = (wins + of[..., 1]).astype(np.float32)  # wins and ties
        self.real = of.sum(axis=2).astype(np.float32)  # all but passes
        self.passing = bool((self.real < self.size).any())
        self.left = [self.size] * len(pair)
        self.place = np.empty(width, dtype=np.float32)
        self.won, self.not_lost, self.played = np.empty((3, width), dtype=np.bool_)
        self.points = np.empty(width, dtype=np.int8)

    def next(
        self, pair: int, draw: NDArray[np.uint16], *, keep: bool
    ) -> tuple[NDArray[np.int8], NDArray[np.bool_] | None]:
        """Draw a match of a pair in every ordering; take it out of the pool unless it is kept."""
        wins, unlost, real = self.wins[pair], self.unlost[pair], self.real[pair]
        # a place among those left: wins come first, then ties, losses and passes
        np.multiply(draw, np.float32(self.left[pair] / BITS), out=self.place)
        np.less(self.place, wins, out=self.won)
        np.less(self.place, unlost, out=self.not_lost)
        np.add(self.won.view(np.int8), self.not_lost.view(np.int8), out=self.points)
        if self.passing:
            np.less(self.place, real, out=self.played)
        if not keep:
            self.left[pair] -= 1
            wins -= self.won
            unlost -= self.not_lost
            if self.passing:
                real -= self.played
        return self.points, self.played if self.passing else None


def _sequences(
    pairs: int, size: int, *, replacement: bool, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Yield the sequence of pairs of seats in parts; with replacement it has no end."""
    if replacement:
        while True:
            yield rng.integers(0, pairs, STEPS).tolist()
    whole = rng.permutation(np.repeat(np.arange(pairs), size))
    for start in range(0, len(whole), STEPS):
        yield whole[start : start + STEPS].tolist()


def _draws(count: int, width: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return uniform 16-bit numbers: (count, W)."""
    words = -(-count * width // 4)  # of 64 bits
    bits = rng.integers(0, 2**64 - 1, words, dtype=np.uint64, endpoint=True).view(np.uint16)
    return bits[: count * width].reshape(count, width)


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
