"""The judge's verdicts beside people's votes on the same matches."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.agreement import Statistic, clustered, majority
from analysis.audit.material import OUTCOMES, Material, codes
from analysis.ranking.bradley_terry import Ranking, rank_systems
from analysis.resampling import Array, Codes, Estimate, Mask

SHOWN = ["question", "first", "second"]
VOTES = "votes_"
TIE = OUTCOMES.index("tie")
TURNED = np.array([1, 0, TIE])  # a verdict's code, were the answers shown the other way round


@dataclass(frozen=True)
class Compared:
    """The matches that people voted on, N items, on prompts and systems that the judge had too."""

    material: Material

    @cached_property
    def votes(self) -> pd.DataFrame:
        """Return human votes on them, a row a vote."""
        rows, known = self.material.humans, set(self.material.systems)
        rows = rows[rows["verdict"].notna() & rows["question"].isin(self.material.prompts)]
        return rows[rows["first"].isin(known) & rows["second"].isin(known)]

    @cached_property
    def items(self) -> pd.DataFrame:
        """Return a row an item: votes for first, second and tie, and the judge's verdict codes.

        `same` is the judge's in the order people saw, `other` in the other one, NaN for none.
        """
        found = pd.crosstab([self.votes[key] for key in SHOWN], self.votes["verdict"])
        found = found.reindex(columns=list(OUTCOMES), fill_value=0).add_prefix(VOTES).reset_index()
        found.columns.name = None
        read = self.material.read.drop_duplicates(SHOWN)
        own = read[SHOWN].assign(code=codes(read["verdict"], OUTCOMES).astype(np.float64))
        turned = own.assign(
            first=own["second"], second=own["first"], code=TURNED[own["code"].astype(int)] * 1.0
        )
        found = found.merge(own.rename(columns={"code": "same"}), how="left", on=SHOWN)
        found = found.merge(turned.rename(columns={"code": "other"}), how="left", on=SHOWN)
        agreed = np.where(found["same"] == found["other"], found["same"], float(TIE))
        missing = found["same"].isna() | found["other"].isna()
        return found.assign(merged=np.where(missing, np.nan, agreed))

    @cached_property
    def table(self) -> Array:
        """Return votes for each outcome, (N, 3)."""
        return self.items[[VOTES + name for name in OUTCOMES]].to_numpy(dtype=np.float64)

    @cached_property
    def prompts(self) -> Codes:
        """Return the place of each item's prompt, (N,)."""
        return codes(self.items["question"], self.material.prompts)

    @cached_property
    def choice(self) -> Codes:
        """Return what more than half of the votes are for, a tie where nothing is, (N,)."""
        return majority(self.table, otherwise=TIE)

    @cached_property
    def ranking(self) -> Ranking:
        """Return skills by the human votes, on the judge's resamples of prompts."""
        counts = self.material.count(self.votes)
        return rank_systems(counts, self.material.weights, self.material.systems)

    def over(self, statistic: Statistic, items: Array, which: Mask) -> Estimate:
        """Return a statistic of some of the items, prompts resampled."""
        return clustered(statistic, items[which], self.prompts[which], self.material.weights)
