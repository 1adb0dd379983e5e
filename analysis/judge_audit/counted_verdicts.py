"""One part of an audit: a table, what must be said of it, and the same as plain facts for json.

What an audit works on: one judge's verdicts on one benchmark, counted per prompt.

Q prompts, S systems, B resamples; prompts and systems are in the order of their names.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.ranking.bradley_terry import Ranking, rank_systems
from analysis.table import Table
from qlora_repro.errors import DataError
from qlora_repro.stats.bootstrap import Array, Codes, Estimate, Mask, prompt_weights, ratio, share


@dataclass(frozen=True, kw_only=True)
class Section:
    """A finding. Where it could not be computed there is no table, and the notes say why."""

    title: str
    frame: pd.DataFrame | None = None  # cells that can be printed
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    headline: str = ""  # the finding in one line, for the summary; empty where it is not in it

    def table(self) -> Table:
        """Return the table; one without rows or columns where nothing could be computed."""
        frame = pd.DataFrame() if self.frame is None else self.frame
        return Table(title=self.title, frame=frame, notes=self.notes)

    def markdown(self) -> str:
        """Return the section as GitHub shows it."""
        if self.frame is None:
            return f"# {self.title}\n\n" + "".join(f"- {note}\n" for note in self.notes)
        return self.table().markdown()


def absent(title: str, why: str) -> Section:
    """Return a section that could not be computed from this file.

    >>> absent("By length", "no answer has a length").notes
    ['not computed: no answer has a length']
    """
    return Section(title=title, notes=[f"not computed: {why}"], facts={"not_computed": why})


def percent(found: Estimate) -> str:
    """Return a share with its interval, in percent."""
    return found.text(scale=100)


def elo(found: Estimate, *, sign: bool = False) -> str:
    """Return Elo with its interval, to whole points."""
    return found.text(digits=0, sign=sign)


OUTCOMES = ("first", "second", "tie")  # the order of the last axis of counts
HUMAN = re.compile(r"human(-\d+)?")
PAIR = ["question", "low", "high"]


@dataclass(frozen=True, kw_only=True)
class Material:
    """The verdicts of one judge in one protocol on one benchmark."""

    judge: str  # "human" for human-1, human-2, .. together: votes, not persons
    benchmark: str
    protocol: str
    rows: pd.DataFrame  # every row, also those without a verdict
    humans: pd.DataFrame  # human votes on the same benchmark; no rows where there are none
    weights: Array  # (B, Q)

    @property
    def name(self) -> str:
        """Return what files about it are called."""
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
    def read(self) -> pd.DataFrame:
        """Return the rows that have a verdict."""
        return self.rows[self.rows["verdict"].notna()]

    @cached_property
    def counts(self) -> Array:
        """Return verdicts per prompt and ordered pair, (Q, S, S, 3)."""
        return self.count(self.read)

    @cached_property
    def ranking(self) -> Ranking:
        """Return Bradley-Terry skills with the order's advantage, all verdicts pooled."""
        return rank_systems(self.counts, self.weights, self.systems)

    @cached_property
    def twice(self) -> pd.DataFrame:
        """Return pairs judged in both orders: a row a prompt, voter and pair of systems low < high.

        `there` is the verdict with low shown first, `back` with high first; `there_margin` and
        `back_margin` are by how much low won (points, or 1, 0, -1). `length` is that of both
        answers together, NaN where it is not known.
        """
        rows = oriented(self.read)
        kept = rows.drop_duplicates([*PAIR, "voter", "low_first"])
        there, back = kept[kept["low_first"]], kept[~kept["low_first"]]
        columns = [*PAIR, "voter", "verdict", "margin"]
        facts = there[[*columns, "category", "lang", "length"]]
        both = facts.merge(back[columns], on=[*PAIR, "voter"], suffixes=("", "_back"))
        both["back_margin"] = -both.pop("margin_back")
        names = {"verdict": "there", "verdict_back": "back", "margin": "there_margin"}
        return both.rename(columns=names)

    def count(self, rows: pd.DataFrame) -> Array:
        """Return verdicts of some of the rows per prompt and ordered pair, (Q, S, S, 3)."""
        made = np.zeros((len(self.prompts), len(self.systems), len(self.systems), 3))
        at = (
            codes(rows["question"], self.prompts),
            codes(rows["first"], self.systems),
            codes(rows["second"], self.systems),
            codes(rows["verdict"], OUTCOMES),
        )
        np.add.at(made, at, 1.0)
        return made

    def per_prompt(self, rows: pd.DataFrame, values: Array | None = None) -> Array:
        """Return the number of rows, or the sum of their values, for each prompt, (Q,)."""
        at = codes(rows["question"], self.prompts)
        return np.bincount(at, weights=values, minlength=len(self.prompts)).astype(np.float64)

    def share(self, rows: pd.DataFrame, which: Mask) -> Estimate:
        """Return the share of rows for which something holds."""
        top = self.per_prompt(rows, np.asarray(which, dtype=np.float64))
        return share(top, self.per_prompt(rows), self.weights)

    def points(self, rows: pd.DataFrame, values: Array) -> Estimate:
        """Return the mean of points between 0 and 1 over rows."""
        return share(self.per_prompt(rows, values), self.per_prompt(rows), self.weights)

    def mean(self, rows: pd.DataFrame, values: Array) -> Estimate:
        """Return the mean of a number over rows."""
        return ratio(self.per_prompt(rows, values), self.per_prompt(rows), self.weights)


def with_lengths(frame: pd.DataFrame) -> pd.DataFrame:
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
    known = known[~known.duplicated(keys, keep=False)]
    for side in ("first", "second"):
        found = frame.merge(
            known, how="left", left_on=["benchmark", "question", side], right_on=keys
        )["chars"]
        chars = frame[f"chars_{side}"].to_numpy(dtype=np.float64)
        filled = np.where(np.isnan(chars), found.to_numpy(dtype=np.float64), chars)
        frame = frame.assign(**{f"chars_{side}": filled})
    return frame


def codes(names: pd.Series, known: tuple[str, ...]) -> Codes:
    """Return the place of each name among the known ones."""
    return pd.Categorical(names.astype(object), categories=list(known)).codes.astype(np.intp)


def oriented(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with their pair in the order of names, and the margin of the one shown first.

    Adds `low`, `high`, `low_first`, `margin` and `length` (of both answers, characters).
    """
    low_first = rows["first"] < rows["second"]
    return rows.assign(
        low=rows["first"].where(low_first, rows["second"]),
        high=rows["second"].where(low_first, rows["first"]),
        low_first=low_first,
        margin=margins(rows),
        length=rows["chars_first"].astype(float) + rows["chars_second"].astype(float),
    )


def margins(rows: pd.DataFrame) -> Array:
    """Return by how much the one shown first won: points where there are scores, else 1, 0, -1."""
    apart = (rows["score_first"] - rows["score_second"]).to_numpy(dtype=np.float64)
    return np.where(np.isnan(apart), 2 * points(rows["verdict"]) - 1, apart)


def points(verdicts: pd.Series) -> Array:
    """Return what each verdict gives the answer shown first: 1, 0, or a half for a tie."""
    return np.array([1.0, 0.0, 0.5])[codes(verdicts, OUTCOMES)]


def materials(
    frame: pd.DataFrame, *, benchmark: str | None, resamples: int, seed: int
) -> Iterator[Material]:
    """Yield what there is to audit: a part for each benchmark, protocol and judge.

    Raises DataError for a benchmark that the verdicts do not have.
    """
    there = sorted(set(frame["benchmark"]))
    if benchmark is not None and benchmark not in there:
        raise DataError(f"no verdict is on benchmark {benchmark!r}; there is {', '.join(there)}")
    own = with_lengths(frame if benchmark is None else frame[frame["benchmark"] == benchmark])
    human = own["judge"].map(lambda name: HUMAN.fullmatch(str(name)) is not None)
    judges = own["judge"].astype(object).where(~human, "human")
    grouped = own.assign(voter=own["judge"].astype(object), judge=judges)
    votes = grouped[human]
    for keys, rows in grouped.groupby(["benchmark", "protocol", "judge"], observed=True):
        at, protocol, judge = (str(key) for key in keys)
        yield Material(
            judge=judge,
            benchmark=at,
            protocol=protocol,
            rows=rows.reset_index(drop=True),
            humans=votes[votes["benchmark"] == at].reset_index(drop=True),
            weights=prompt_weights(rows["question"].nunique(), resamples=resamples, seed=seed),
        )
