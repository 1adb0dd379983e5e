"""The judge's verdicts beside people's votes on the same matches.

Agreement among people, and of the judge with them: by example and by system.

What a judge that is one of the systems gives itself, beyond what people give it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.judge_audit.counted_verdicts import (
    OUTCOMES,
    Material,
    Section,
    absent,
    codes,
    elo,
    percent,
)
from analysis.ranking.bradley_terry import Ranking, rank_systems
from qlora_repro.stats.agreement import (
    Statistic,
    alpha,
    clustered,
    cohen,
    crossed,
    fleiss,
    kendall,
    majority,
    spearman,
)
from qlora_repro.stats.bootstrap import Array, Codes, Estimate, Mask, estimate

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


READINGS = {
    "same": "in the order people saw",
    "other": "in the other order",
    "merged": "both orders, disagreement is a tie",
}


def agreement(material: Material) -> Section:
    """Return agreement among people, and of the judge with their majority, item and system."""
    title = "Agreement with people"
    compared = Compared(material)
    if compared.votes.empty:
        return absent(
            title, f"no human vote is on these systems and prompts of {material.benchmark!r}"
        )
    found = list(_among_people(compared))
    if material.judge != "human":
        found += [*_by_item(compared), *_by_system(compared)]
    if not found:
        return absent(title, "no item has two ratings")
    frame = pd.DataFrame(
        [
            {
                "who": who,
                "statistic": what,
                "value [95%]": value.text(digits=3),
                "n": f"{value.n:,}",
            }
            for who, what, value in found
        ]
    )
    said = [
        f"{len(compared.votes):,} votes on {len(compared.items):,} items. An item is a match as it "
        "was shown, its categories first, second and tie; n counts items, or systems.",
        "The majority is what more than half of the votes are for, a tie where nothing is. Votes "
        "are not by the same persons throughout, so kappa among people is Fleiss'.",
    ]
    facts = {f"{who}: {what}": value.facts() for who, what, value in found}
    return Section(title=title, frame=frame, notes=said, facts=facts)


def _among_people(compared: Compared) -> Iterator[tuple[str, str, Estimate]]:
    table = compared.table
    ratings = table.sum(axis=1)
    usual = np.bincount(ratings.astype(int)).argmax()
    several = ratings >= 2
    if usual >= 2:
        yield "people", "Fleiss' kappa", compared.over(fleiss, table, ratings == usual)
    if several.any():
        yield "people", "Krippendorff's alpha", compared.over(alpha, table, several)


def _by_item(compared: Compared) -> Iterator[tuple[str, str, Estimate]]:
    for reading, who in READINGS.items():
        code = compared.items[reading].to_numpy()
        known = np.isfinite(code)
        if not known.any():
            continue
        pairs = np.column_stack([compared.choice, np.nan_to_num(code)])  # (N, 2)
        yield f"judge {who}", "same verdict", compared.over(_same, pairs, known)
        yield f"judge {who}", "Cohen's kappa", compared.over(_cohen, pairs, known)
        yield f"judge {who}", "Fleiss' kappa", compared.over(_fleiss, pairs, known)


def _by_system(compared: Compared) -> Iterator[tuple[str, str, Estimate]]:
    ours, theirs = compared.material.ranking, compared.ranking
    shared = ours.finite & theirs.finite
    if shared.sum() < 3:
        return
    for what, statistic in (("Kendall's tau", kendall), ("Spearman's rho", spearman)):
        value = statistic(ours.fit.skills[shared], theirs.fit.skills[shared])
        skills = zip(ours.draws.skills[:, shared], theirs.draws.skills[:, shared], strict=True)
        draws = np.array([statistic(x, y) for x, y in skills])
        prompts = min(ours.prompts, theirs.prompts)
        yield (
            "judge, systems' Elo",
            what,
            estimate(value, draws, prompts=prompts, n=int(shared.sum())),
        )


def _same(pairs: Array) -> float:
    return float((pairs[:, 0] == pairs[:, 1]).mean())


def _cohen(pairs: Array) -> float:
    one, other = pairs.astype(np.intp).T
    return cohen(crossed(one, other, len(OUTCOMES)))


def _fleiss(pairs: Array) -> float:
    one, other = pairs.astype(np.intp).T
    one_hot = np.eye(len(OUTCOMES))
    return fleiss(one_hot[one] + one_hot[other])


GAIN = np.array([1.0, 0.0, 0.5])  # points of the one shown first, by its verdict's code


def self_preference(material: Material) -> Section:
    """Return what the judge gives each system beyond what people give it, itself among them."""
    title = "Self-preference"
    if material.judge not in material.systems:
        return absent(title, f"the judge {material.judge!r} is not one of the systems")
    compared = Compared(material)
    if compared.votes.empty:
        return absent(
            title, f"no human vote is on these systems and prompts of {material.benchmark!r}"
        )
    items = compared.items
    people = GAIN[compared.choice]
    codes_of = items[["same", "other"]].to_numpy()
    judged = np.where(np.isnan(codes_of), np.nan, GAIN[np.nan_to_num(codes_of).astype(int)])
    both = np.asarray(np.isfinite(judged).all(axis=1))
    mean = judged.mean(axis=1)
    rows: list[dict[str, str]] = []
    facts: dict[str, dict[str, Any]] = {}
    for name in material.systems:
        mine = pd.concat(
            [
                _of(items, "first", name, both, np.stack([mean, people])),
                _of(items, "second", name, both, 1 - np.stack([mean, people])),
            ]
        )
        if mine.empty:
            continue
        gave, theirs = (material.points(mine, mine[by].to_numpy()) for by in ("judge", "people"))
        beyond = material.mean(mine, (mine["judge"] - mine["people"]).to_numpy())
        rows.append(
            {
                "system": f"{name} (the judge)" if name == material.judge else name,
                "n": f"{gave.n:,}",
                "points by the judge, %": percent(gave),
                "by the human majority, %": percent(theirs),
                "beyond, points %": beyond.text(scale=100, sign=True),
                **_elos(material.ranking, compared.ranking, name),
            }
        )
        facts[name] = {"judge": gave.facts(), "people": theirs.facts(), "beyond": beyond.facts()}
    said = [
        "The same matches, the judge's mean over both orders. Points sum to a constant, so what "
        "one system gains others lose.",
        "A judge may also see what people miss, or disagree less with itself than people do with "
        "each other, which spreads systems further apart: this bounds self-preference, and does "
        "not prove it.",
    ]
    frame = pd.DataFrame(rows)
    order = np.argsort([-(facts[name]["beyond"]["value"] or 0.0) for name in facts], kind="stable")
    own = next(row for row in rows if row["system"].startswith(f"{material.judge} ("))
    headline = (
        f"The judge gives itself {own['beyond, points %']} points beyond people (n = {own['n']})"
    )
    return Section(title=title, frame=frame.iloc[order], notes=said, facts=facts, headline=headline)


def _elos(ours: Ranking, theirs: Ranking, name: str) -> dict[str, str]:
    """Return both Elos of a system; none unless both average the same systems."""
    if not np.array_equal(ours.finite, theirs.finite):
        return {}
    return {"Elo by the judge": elo(ours.skill(name)), "Elo by people": elo(theirs.skill(name))}


def _of(items: pd.DataFrame, side: str, name: str, held: Mask, points: Array) -> pd.DataFrame:
    """Return points by judge and people of a system where it was on one side."""
    which = np.asarray(items[side] == name) & held
    made = {"question": items["question"][which], "judge": points[0][which]}
    return pd.DataFrame({**made, "people": points[1][which]})
