"""What an audit works on, one judge's verdicts on one benchmark, and what it makes: sections.

Q prompts, S systems, B resamples; prompts and systems are in the order of their names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.ranking.bradley_terry import Ranking, rank_systems
from analysis.table import Table
from qlora_repro.errors import DataError
from qlora_repro.stats.intervals import (
    Array,
    BootstrapEstimate,
    Indices,
    draw_prompt_weights,
    estimate_ratio,
    estimate_share,
)

OUTCOMES = ("first", "second", "tie")  # the order of the last axis of counts
POINTS = np.array([1.0, 0.0, 0.5])  # of the answer shown first, for each outcome
SWAPPED = {"first": "second", "second": "first", "tie": "tie"}
HUMAN = re.compile(r"human(-\d+)?")
MATCH = ["question", "first", "second"]
PAIR = ["question", "low", "high"]


@dataclass(frozen=True, kw_only=True)
class AuditSection(Table):
    """One part of an audit: a table, notes on it, and the same as plain facts for json.

    Where it could not be computed the table is empty, and the notes say why.
    """

    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    facts: dict[str, Any] = field(default_factory=dict)
    headline: str = ""  # the result in one line, for the summary; empty where it is not in it


def missing_section(title: str, why: str) -> AuditSection:
    """Return a section that could not be computed from this file.

    >>> missing_section("By length", "no answer has a length").notes
    ['not computed: no answer has a length']
    """
    return AuditSection(title=title, notes=[f"not computed: {why}"], facts={"not_computed": why})


def format_percent(estimate: BootstrapEstimate, *, sign: bool = False) -> str:
    """Return a share with its interval, in percent."""
    return estimate.format(scale=100, sign=sign)


def format_elo(estimate: BootstrapEstimate, *, sign: bool = False) -> str:
    """Return Elo with its interval, to whole points."""
    return estimate.format(digits=0, sign=sign)


def as_facts(estimates: Mapping[str, BootstrapEstimate]) -> dict[str, Any]:
    """Return named estimates as plain facts."""
    return {name: estimate.as_dict() for name, estimate in estimates.items()}


@dataclass(frozen=True, kw_only=True)
class JudgeVerdicts:
    """The verdicts of one judge in one protocol on one benchmark."""

    judge: str  # "human" for human-1, human-2, .. as one: votes, not persons
    benchmark: str
    protocol: str
    rows: pd.DataFrame  # every row, also those without a verdict
    humans: pd.DataFrame  # human votes on the same benchmark; no rows where there are none
    weights: Array  # (B, Q)

    @property
    def name(self) -> str:
        """Return the stem of the files about it."""
        return re.sub(r"[^\w.-]+", "-", f"audit_{self.benchmark}_{self.protocol}_{self.judge}")

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Return the ids of the questions."""
        return tuple(sorted(set(self.rows["question"])))

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """Return the names of the systems."""
        return tuple(sorted(set(self.rows["first"]) | set(self.rows["second"])))

    @cached_property
    def readable(self) -> pd.DataFrame:
        """Return the rows that have a verdict."""
        return self.rows[self.rows["verdict"].notna()]

    @cached_property
    def counts(self) -> Array:
        """Return verdicts per prompt and ordered pair, (Q, S, S, 3)."""
        return self.count_verdicts(self.readable)

    @cached_property
    def ranking(self) -> Ranking:
        """Return Bradley-Terry skills with the order's advantage, all verdicts pooled."""
        return rank_systems(self.counts, self.weights, self.systems)

    @cached_property
    def swapped_pairs(self) -> pd.DataFrame:
        """Return pairs judged in both orders: a row a prompt, voter and pair of systems low < high.

        `low_first` is the verdict with low shown first, `high_first` with high first;
        `low_first_margin` and `high_first_margin` are by how much low won (points, or 1, 0, -1).
        """
        rows = orient_pairs(self.readable).drop_duplicates([*PAIR, "voter", "low_is_first"])
        keys = [*PAIR, "voter"]
        low_first, high_first = (
            rows.loc[rows["low_is_first"] == is_first, [*keys, "verdict", "margin"]].rename(
                columns={"verdict": name, "margin": f"{name}_margin"}
            )
            for name, is_first in (("low_first", True), ("high_first", False))
        )
        both = low_first.merge(high_first, on=keys)
        return both.assign(high_first_margin=-both["high_first_margin"])

    def count_verdicts(self, rows: pd.DataFrame) -> Array:
        """Return verdicts of some of the rows per prompt and ordered pair, (Q, S, S, 3)."""
        return self.count_pairs(rows, category_codes(rows["verdict"], OUTCOMES))

    def count_pairs(
        self,
        rows: pd.DataFrame,
        outcomes: Indices,
        *,
        columns: tuple[str, str] = ("first", "second"),
        size: int = 3,
    ) -> Array:
        """Return rows per prompt, ordered pair (of two columns) and outcome, (Q, S, S, size)."""
        first, second = (category_codes(rows[column], self.systems) for column in columns)
        counts = np.zeros((len(self.prompts), len(self.systems), len(self.systems), size))
        at = (category_codes(rows["question"], self.prompts), first, second, outcomes)
        np.add.at(counts, at, 1.0)
        return counts

    def sum_by_prompt(self, rows: pd.DataFrame, values: Array | None = None) -> Array:
        """Return the number of rows, or the sum of their values, for each prompt, (Q,)."""
        at = category_codes(rows["question"], self.prompts)
        return np.bincount(at, weights=values, minlength=len(self.prompts)).astype(np.float64)

    def estimate_share(self, rows: pd.DataFrame, values: Any) -> BootstrapEstimate:
        """Return the mean over rows of something between 0 and 1: what holds, or points."""
        top = self.sum_by_prompt(rows, np.asarray(values, dtype=np.float64))
        return estimate_share(top, self.sum_by_prompt(rows), self.weights)

    def estimate_outcomes(self, rows: pd.DataFrame) -> dict[str, BootstrapEstimate]:
        """Return the share of rows with each verdict."""
        return {name: self.estimate_share(rows, rows["verdict"] == name) for name in OUTCOMES}

    def estimate_mean(self, rows: pd.DataFrame, values: Any) -> BootstrapEstimate:
        """Return the mean of a number over rows."""
        top = self.sum_by_prompt(rows, np.asarray(values, dtype=np.float64))
        return estimate_ratio(top, self.sum_by_prompt(rows), self.weights)


def split_by_judge(
    frame: pd.DataFrame, *, benchmark: str | None, resamples: int, seed: int
) -> Iterator[JudgeVerdicts]:
    """Yield what there is to audit: a part for each benchmark, protocol and judge.

    Args:
        frame: Verdicts, as the store has them.
        benchmark: The one to audit; None: all.
        resamples: Of the prompts.
        seed: Of the resamples.

    Raises:
        DataError: The verdicts do not have the benchmark.
    """
    benchmarks = sorted(set(frame["benchmark"]))
    if benchmark is not None and benchmark not in benchmarks:
        known = ", ".join(benchmarks)
        raise DataError(f"no verdict is on benchmark {benchmark!r}; there is {known}")
    rows = fill_lengths(frame if benchmark is None else frame[frame["benchmark"] == benchmark])
    human = rows["judge"].map(lambda name: HUMAN.fullmatch(str(name)) is not None)
    voters = rows["judge"].astype(object)
    rows = rows.assign(voter=voters, judge=voters.where(~human, "human"))
    votes = rows[human]
    for keys, part in rows.groupby(["benchmark", "protocol", "judge"], observed=True):
        name, protocol, judge = (str(key) for key in keys)
        yield JudgeVerdicts(
            judge=judge,
            benchmark=name,
            protocol=protocol,
            rows=part.reset_index(drop=True),
            humans=votes[votes["benchmark"] == name].reset_index(drop=True),
            weights=draw_prompt_weights(part["question"].nunique(), resamples=resamples, seed=seed),
        )


def fill_lengths(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows with lengths that other rows state of the same system's answer filled in.

    People's votes state none, but are on answers that were judged as well. An answer of which two
    lengths are stated (two generations) is left as it is.
    """
    keys = ["benchmark", "question", "system"]
    stated = [
        frame.rename(columns={side: "system", f"chars_{side}": "chars"})[[*keys, "chars"]]
        for side in ("first", "second")
    ]
    known = pd.concat(stated).dropna().drop_duplicates()
    lengths = known[~known.duplicated(keys, keep=False)].set_index(keys)["chars"].astype("float64")
    for side in ("first", "second"):
        answers = pd.MultiIndex.from_frame(frame[["benchmark", "question", side]].astype(object))
        stated_here = frame[f"chars_{side}"].to_numpy(dtype=np.float64)
        elsewhere = lengths.reindex(answers).to_numpy()
        chars = np.where(np.isnan(stated_here), elsewhere, stated_here)
        frame = frame.assign(**{f"chars_{side}": chars})
    return frame


def category_codes(names: pd.Series, categories: tuple[str, ...]) -> Indices:
    """Return the index of each name among the categories."""
    codes = pd.Categorical(names.astype(object), categories=list(categories)).codes
    return codes.astype(np.intp)


def orient_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with their pair in the order of names, and the margin of the one shown first.

    Adds `low`, `high`, `low_is_first`, `length` (of both answers, characters) and `margin`: points
    where there are scores, else 1, 0, -1.
    """
    low_is_first = rows["first"] < rows["second"]
    scored = (rows["score_first"] - rows["score_second"]).to_numpy(dtype=np.float64)
    return rows.assign(
        low=rows["first"].where(low_is_first, rows["second"]),
        high=rows["second"].where(low_is_first, rows["first"]),
        low_is_first=low_is_first,
        margin=np.where(np.isnan(scored), 2 * first_points(rows["verdict"]) - 1, scored),
        length=rows["chars_first"].astype(float) + rows["chars_second"].astype(float),
    )


def first_points(verdicts: pd.Series) -> Array:
    """Return what each verdict gives the answer shown first: 1, 0, or a half for a tie."""
    return np.asarray(POINTS[category_codes(verdicts, OUTCOMES)])
