"""Elo over many random orderings of the matches (Section 5.3, Tables 1 and 7).

The paper states start 1000 and K = 32; which settings give its numbers is in `elo.yaml`: K = 4 on
the Vicuna benchmark, K = 32 on OA. Ratings are in Elo: 400 more are odds of ten to one. They are
kept in single precision, which is good to a thousandth of an Elo after thousands of matches.

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

Orderings of one block are not quite independent of each other, as they share the sequence of seats.
Its effect on a rating averages out over seatings to first order; means of blocks of the released
verdicts scatter as much as those of independent orderings (a test compares them).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy import stats

from analysis.ranking.bradley_terry import rank_skills
from analysis.ranking.tally import Counts, Tally, count_verdicts, pair_indices, resample_counts
from qlora_repro.errors import ConfigError
from qlora_repro.stats.intervals import TAILS, Array, Indices, draw_prompt_weights

SETTINGS = Path(__file__).with_name("elo.yaml")
BLOCK = 10_000  # orderings at once: many, so that Python's share of the time is small
BATCH = 256  # matches whose random bits are drawn at once
RESOLUTION = 1 << 16  # of a draw
LOG_ODDS_PER_ELO = math.log(10) / 400
# K = 32 has forgotten all but e-10 of what was before the last 2,000 of random matches of a few
# systems, and it forgets in proportion to K: playing more of them costs time and changes nothing.
MEMORY = 64_000
RESAMPLES = 1_000  # of the questions
ORDERINGS_EACH = 40  # of a resample


@dataclass(frozen=True, kw_only=True)
class EloSetting:
    """How matches become ratings; a tie is half a win for each side."""

    start: float
    k: float  # the most that one match moves a rating
    matches: int | None  # of an ordering; None: all there are
    orderings: int
    seed: int


def load_setting(preset: str, benchmark: str, **changes: Any) -> EloSetting:
    """Return a preset's setting for a benchmark, with changes.

    Raises:
        ConfigError: There is no such preset, or it has no K for the benchmark.
    """
    stored = yaml.safe_load(SETTINGS.read_text())
    presets = stored.pop("k")
    if preset not in presets:
        raise ConfigError(f"there is no Elo preset {preset!r}; there is {', '.join(presets)}")
    if benchmark not in presets[preset]:
        known = ", ".join(presets[preset])
        raise ConfigError(f"{preset} has no K for the benchmark {benchmark!r}; it has {known}")
    return EloSetting(**(stored | {"k": presets[preset][benchmark]} | changes))


@dataclass(frozen=True, kw_only=True)
class EloColumn:
    """Ratings of one judge on one benchmark under one setting; Tables 1 and 7 are made of these."""

    ratings: pd.DataFrame  # a row a system, the best first: elo, error, low, high, ranks, above
    matches: int
    missing: int
    questions: int
    setting: EloSetting

    def rows(self) -> list[tuple[str, pd.Series]]:
        """Return (system, its ratings), the best first."""
        return [(str(system), row) for system, row in self.ratings.iterrows()]

    def describe_setting(self) -> str:
        """Return the setting in words."""
        k, orderings = self.setting.k, self.setting.orderings
        return f"K = {k:g}, mean of {orderings:,} orderings of {self.matches:,} matches"


def rate_column(verdicts: pd.DataFrame, *, preset: str, benchmark: str) -> EloColumn:
    """Rate the systems; intervals and ranks are over resampled questions."""
    tally = count_verdicts(verdicts)
    setting = load_setting(preset, benchmark)
    ratings = rate_orderings(tally.total, len(tally.systems), setting)
    resampled = rate_resampled_questions(tally, setting, resamples=RESAMPLES, each=ORDERINGS_EACH)
    low, high = np.quantile(resampled, TAILS, axis=0)
    ranks = rank_skills(resampled)  # (B, N)
    best, worst = np.quantile(ranks, TAILS, axis=0, method="inverted_cdf").astype(np.int64)
    mean = ratings.mean(axis=0)
    order = (-mean).argsort()
    above = (resampled[:, order[:-1]] > resampled[:, order[1:]]).mean(axis=0)
    columns = {"elo": mean, "error": monte_carlo_error(ratings), "low": low, "high": high}
    frame = pd.DataFrame(columns | {"best": best, "worst": worst}, index=tally.systems)
    return EloColumn(
        ratings=frame.iloc[order].assign(
            rank=np.arange(1, len(frame) + 1),
            above=np.append(above, np.nan),  # how often it is rated above the next
        ),
        matches=int(tally.total.sum()),
        missing=tally.missing,
        questions=len(tally.questions),
        setting=setting,
    )


def format_ranks(row: pd.Series) -> str:
    """Return the ranks that a system may have as text.

    >>> format_ranks(pd.Series({"best": 2, "worst": 4}))
    '2-4'
    >>> format_ranks(pd.Series({"best": 1, "worst": 1}))
    '1'
    """
    best, worst = int(row["best"]), int(row["worst"])
    return str(best) if best == worst else f"{best}-{worst}"


def monte_carlo_error(ratings: Array) -> Array:
    """Return half the 95% interval of the mean over orderings, (N,): the paper's +-1.

    It says how well so many random orderings are averaged, not how sure the ratings are.
    """
    return np.asarray(stats.norm.isf(TAILS[0]) * stats.sem(ratings, axis=0))


def rate_resampled_questions(
    tally: Tally, setting: EloSetting, *, resamples: int, each: int
) -> Array:
    """Return ratings of B resamples of the questions, (B, N), each over `each` orderings.

    They show how sure the ratings are, which the paper's +-1, the error of a mean over orderings,
    does not: other questions would have given other verdicts. A resample's mean rating still
    scatters with its orderings. That part of the variance is known, from the spread within
    resamples, and is taken out by shrinking them towards their mean.
    """
    n = len(tally.systems)
    weights = draw_prompt_weights(len(tally.questions), resamples=resamples, seed=setting.seed)
    counts = resample_counts(tally.counts, weights)
    matches = math.ceil(MEMORY / setting.k)
    if setting.matches is None and matches < _fewest_matches(counts):
        setting = replace(setting, matches=matches)
    setting = replace(setting, orderings=resamples * each)
    ratings = rate_orderings(np.repeat(counts, each, axis=0), n, setting)
    ratings = ratings.reshape(resamples, each, n)
    means, centre = ratings.mean(axis=1), ratings.mean(axis=(0, 1))
    scatter = ratings.var(axis=1, ddof=1).mean(axis=0) / each  # (N,) of a mean, by its orderings
    shrinkage = np.sqrt(np.clip(1 - scatter / means.var(axis=0, ddof=1), 0, 1))
    return np.asarray(centre + (means - centre) * shrinkage)


def rate_orderings(counts: Counts, n: int, setting: EloSetting) -> Array:
    """Return the ratings of N systems after each ordering: (orderings, N), in rounds of BLOCK.

    Args:
        counts: (P, 3) as of `count_verdicts`, or (orderings, P, 3) with matches of its own for
            each ordering.
        n: Systems.
        setting: How they are rated.

    Raises:
        ConfigError: An ordering wants more matches than there are.
    """
    available = _fewest_matches(counts)
    if available == 0:
        raise ConfigError("there are no matches with a verdict to rate systems by")
    if setting.matches is not None and setting.matches > available:
        raise ConfigError(f"matches is {setting.matches:,}, and there are {available:,}")
    rng = np.random.Generator(np.random.SFC64(setting.seed))
    ratings = []
    for start in range(0, setting.orderings, BLOCK):
        width = min(BLOCK, setting.orderings - start)
        block = counts if counts.ndim == 2 else counts[start : start + width]
        ratings.append(_rate_block(block, assign_seats(width, n, rng), setting=setting, rng=rng))
    return np.concatenate(ratings)


def _fewest_matches(counts: Counts) -> int:
    return int(counts.sum(axis=(-2, -1)).min())


def _rate_block(
    counts: Counts, seats: Indices, *, setting: EloSetting, rng: np.random.Generator
) -> Array:
    """Play one block of W orderings, sitting as `seats` (N, W) says; return (W, N)."""
    log_odds = np.zeros(seats.shape, dtype=np.float32)  # (N, W) above the start, by seat
    k = np.float32(setting.k * LOG_ODDS_PER_ELO)
    expected, change = np.empty((2, seats.shape[1]), dtype=np.float32)
    for match in iterate_matches(counts, seats, matches=setting.matches, rng=rng):
        first, second = log_odds[match.first], log_odds[match.second]
        np.subtract(second, first, out=expected)
        np.exp(expected, out=expected)
        expected += 1
        np.divide(k, expected, out=expected)
        np.multiply(match.half_points, k * np.float32(0.5), out=change)
        change -= expected
        if match.played is not None:
            change *= match.played
        first += change
        second -= change
    ratings = np.empty_like(log_odds)
    np.put_along_axis(ratings, seats, log_odds, axis=0)
    return ratings.T.astype(np.float64) / LOG_ODDS_PER_ELO + setting.start


class Match(NamedTuple):
    """One match in every ordering of a block; the arrays are overwritten by the next one."""

    first: int  # seats
    second: int
    half_points: NDArray[np.int8]  # (W,) twice what the first seat scores: 0, 1 or 2
    played: NDArray[np.bool_] | None  # (W,) False: passed; None: all play


def assign_seats(orderings: int, n: int, rng: np.random.Generator) -> Indices:
    """Return which system sits on which seat: (N, W)."""
    rows = np.tile(np.arange(n, dtype=np.intp), (orderings, 1))
    return np.ascontiguousarray(rng.permuted(rows, axis=1).T)


def iterate_matches(
    counts: Counts, seats: Indices, *, matches: int | None, rng: np.random.Generator
) -> Iterator[Match]:
    """Yield the matches of one block of W orderings of N systems.

    Args:
        counts: (P, 3), or (W, P, 3) with matches of its own for every ordering.
        seats: Which system sits where, (N, W).
        matches: After which an ordering ends; None: when all are played.
        rng: What is drawn from.
    """
    n, width = seats.shape
    pool = _MatchPool(counts, seats)
    pairs = list(zip(*(seat.tolist() for seat in np.triu_indices(n, 1)), strict=True))
    done = np.zeros(width, dtype=np.int64)
    shuffled = rng.permutation(np.repeat(np.arange(len(pairs)), pool.size))
    for start in range(0, len(shuffled), BATCH):
        sequence = shuffled[start : start + BATCH].tolist()
        random_bits = _uniform_bits(len(sequence), width, rng)
        for pair, draw in zip(sequence, random_bits, strict=True):
            half_points, played = pool.draw_match(pair, draw)
            if matches is not None:
                unfinished = done < matches
                played = unfinished if played is None else played & unfinished
                done += played
            first, second = pairs[pair]
            yield Match(first, second, half_points, played)
        if matches is not None and (done >= matches).all():
            return


class _MatchPool:
    """The matches that are left: of each pair of seats, (P, W) by what its first seat scores."""

    def __init__(self, counts: Counts, seats: Indices) -> None:
        n, width = seats.shape
        first, second = (seats[side] for side in np.triu_indices(n, 1))  # (P, W) systems
        pair = pair_indices(n)[first, second]  # (P, W)
        by_seat = counts[pair] if counts.ndim == 2 else counts[np.arange(width), pair]  # (P, W, 3)
        total = by_seat.sum(axis=2)
        wins = np.where(first < second, by_seat[..., 0], by_seat[..., 2])
        self.size = int(total.max())
        self.wins = wins.astype(np.float32)
        self.not_losses = (wins + by_seat[..., 1]).astype(np.float32)  # wins and ties
        self.matches = total.astype(np.float32)  # all but passes
        self.has_passes = bool((self.matches < self.size).any())
        self.left = [self.size] * len(pair)
        self.position = np.empty(width, dtype=np.float32)
        self.won, self.not_lost, self.played = np.empty((3, width), dtype=np.bool_)
        self.half_points = np.empty(width, dtype=np.int8)

    def draw_match(
        self, pair: int, draw: NDArray[np.uint16]
    ) -> tuple[NDArray[np.int8], NDArray[np.bool_] | None]:
        """Draw a match of a pair in every ordering, and take it out of the pool."""
        wins, not_losses, matches = self.wins[pair], self.not_losses[pair], self.matches[pair]
        # a position among those left: wins come first, then ties, losses and passes
        np.multiply(draw, np.float32(self.left[pair] / RESOLUTION), out=self.position)
        np.less(self.position, wins, out=self.won)
        np.less(self.position, not_losses, out=self.not_lost)
        np.add(self.won.view(np.int8), self.not_lost.view(np.int8), out=self.half_points)
        self.left[pair] -= 1
        wins -= self.won
        not_losses -= self.not_lost
        if not self.has_passes:
            return self.half_points, None
        np.less(self.position, matches, out=self.played)
        matches -= self.played
        return self.half_points, self.played


def _uniform_bits(count: int, width: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return uniform 16-bit numbers: (count, W)."""
    n_words = -(-count * width // 4)  # of 64 bits
    bits = rng.integers(0, 2**64 - 1, n_words, dtype=np.uint64, endpoint=True).view(np.uint16)
    return bits[: count * width].reshape(count, width)
