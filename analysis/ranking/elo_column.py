"""One column of Elo ratings with all that must be said of it; Tables 1 and 7 are made of these."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.ranking.elo import monte_carlo, over_orderings, setting
from analysis.ranking.intervals import over_questions
from analysis.ranking.tally import majority, tally
from qlora_repro.store.verdicts import released

REPLICATES = 1_000  # draws of the questions
EACH = 40  # orderings of a draw


@dataclass(frozen=True, kw_only=True)
class EloColumn:
    """Ratings of one judge on one benchmark under one setting."""

    ratings: pd.DataFrame  # a row a system, the best first: elo, error, low, high, ranks, above
    matches: int
    missing: int
    questions: int
    k: float
    orderings: int

    def rows(self) -> list[tuple[str, pd.Series]]:
        """Return (system, its ratings), the best first."""
        return [(str(system), row) for system, row in self.ratings.iterrows()]

    def elo(self) -> dict[str, float]:
        """Return system -> rating."""
        return {system: float(row["elo"]) for system, row in self.rows()}

    def setting(self) -> str:
        """Return the setting in words."""
        return f"K = {self.k:g}, mean of {self.orderings:,} orderings of {self.matches:,} matches"


def of_benchmark(benchmark: str) -> pd.DataFrame:
    """Return GPT-4's released pairwise verdicts on a benchmark."""
    frame = released()
    pairwise = (frame["judge"] == "gpt-4") & (frame["protocol"] == "three_class")
    return frame[pairwise & (frame["benchmark"] == benchmark)]


def of_humans() -> pd.DataFrame:
    """Return the released human votes, the majority of the three on each match."""
    frame = released()
    return majority(frame[frame["judge"].str.startswith("human-")])


def column(
    verdicts: pd.DataFrame,
    *,
    preset: str,
    benchmark: str,
    orderings: int | None = None,
    replicates: int = REPLICATES,
) -> EloColumn:
    """Rate the systems; intervals and ranks are over draws of the questions."""
    of = tally(verdicts)
    how = setting(preset, benchmark, **({} if orderings is None else {"orderings": orderings}))
    rated = over_orderings(of.total, len(of.systems), how)
    uncertain = over_questions(of, how, replicates=replicates, each=EACH)
    low, high = uncertain.interval()
    best, worst = uncertain.ranks()
    mean = rated.mean(axis=0)
    order = (-mean).argsort()
    above = np.append(uncertain.beats()[order[:-1], order[1:]], np.nan)  # the next in the order
    frame = pd.DataFrame(
        {
            "elo": mean,
            "error": monte_carlo(rated),
            "low": low,
            "high": high,
            "best": best,
            "worst": worst,
        },
        index=of.systems,
    ).iloc[order]
    frame["rank"] = np.arange(1, len(frame) + 1)
    return EloColumn(
        ratings=frame.assign(above=above),
        matches=int(of.total.sum()),
        missing=of.missing,
        questions=len(of.questions),
        k=how.k,
        orderings=how.orderings,
    )


def span(row: pd.Series) -> str:
    """Return an interval of a rating as text."""
    return f"[{row['low']:.0f}, {row['high']:.0f}]"


def ranks(row: pd.Series) -> str:
    """Return the ranks that a system may have as text.

    >>> ranks(pd.Series({"best": 2, "worst": 4})), ranks(pd.Series({"best": 1, "worst": 1}))
    ('2-4', '1')
    """
    best, worst = int(row["best"]), int(row["worst"])
    return str(best) if best == worst else f"{best}-{worst}"
