"""The judge's verdicts beside people's votes on the same matches.

Agreement among people and of the judge with them, by match and by system; and what a judge that is
one of the systems gives itself, beyond what people give it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.judge_audit.verdict_counts import (
    MATCH,
    OUTCOMES,
    POINTS,
    AuditSection,
    JudgeVerdicts,
    as_facts,
    category_codes,
    format_elo,
    format_percent,
    missing_section,
)
from analysis.ranking.bradley_terry import Ranking, rank_systems
from qlora_repro.stats.agreement import (
    cohen_kappa,
    contingency_table,
    fleiss_kappa,
    kendall_tau,
    krippendorff_alpha,
    majority_category,
    spearman_rho,
)
from qlora_repro.stats.intervals import Array, BootstrapEstimate, Indices, Mask, bootstrap_prompts

TIE = OUTCOMES.index("tie")
SWAPPED_CODES = np.array([1.0, 0.0, TIE])  # of each verdict, were the answers swapped
READINGS = {
    "same": "in the order people saw",
    "other": "in the other order",
    "merged": "both orders, disagreement is a tie",
}
Row = tuple[str, str, BootstrapEstimate]  # who, statistic, value


@dataclass(frozen=True)
class HumanComparison:
    """The matches that people voted on, N items, on prompts and systems that the judge had too."""

    judged: JudgeVerdicts

    @cached_property
    def votes(self) -> pd.DataFrame:
        """Return human votes on them, a row a vote."""
        rows, systems = self.judged.humans, self.judged.systems
        rows = rows[rows["verdict"].notna() & rows["question"].isin(self.judged.prompts)]
        return rows[rows["first"].isin(systems) & rows["second"].isin(systems)]

    @cached_property
    def items(self) -> pd.DataFrame:
        """Return a row an item: votes for first, second and tie, and the judge's verdict codes.

        `same` is the judge's in the order people saw, `other` in the other one, NaN for none.
        """
        items = pd.crosstab([self.votes[key] for key in MATCH], self.votes["verdict"])
        items = items.reindex(columns=list(OUTCOMES), fill_value=0).add_prefix("votes_")
        items = items.reset_index().rename_axis(columns=None)
        readable = self.judged.readable.drop_duplicates(MATCH)
        codes = category_codes(readable["verdict"], OUTCOMES)
        same = readable[MATCH].assign(same=codes.astype(np.float64))
        other = readable[MATCH].rename(columns={"first": "second", "second": "first"})
        items = items.merge(same, how="left", on=MATCH)
        items = items.merge(other.assign(other=SWAPPED_CODES[codes]), how="left", on=MATCH)
        merged = np.where(items["same"] == items["other"], items["same"], float(TIE))
        missing = items["same"].isna() | items["other"].isna()
        return items.assign(merged=np.where(missing, np.nan, merged))

    @cached_property
    def vote_counts(self) -> Array:
        """Return votes for each outcome, (N, 3)."""
        return self.items[[f"votes_{name}" for name in OUTCOMES]].to_numpy(dtype=np.float64)

    @cached_property
    def majority(self) -> Indices:
        """Return what more than half of the votes are for, a tie where nothing is, (N,)."""
        return majority_category(self.vote_counts, otherwise=TIE)

    @cached_property
    def ranking(self) -> Ranking:
        """Return skills by the human votes, on the judge's resamples of prompts."""
        counts = self.judged.count_verdicts(self.votes)
        return rank_systems(counts, self.judged.weights, self.judged.systems)

    def estimate(
        self, statistic: Callable[[Array], float], items: Array, which: Mask
    ) -> BootstrapEstimate:
        """Return a statistic of some of the items, prompts resampled."""
        prompts = category_codes(self.items["question"], self.judged.prompts)[which]
        return bootstrap_prompts(statistic, items[which], prompts, self.judged.weights)


def human_agreement(judged: JudgeVerdicts) -> AuditSection:
    """Return agreement among people, and of the judge with their majority, item and system."""
    title = "Agreement with people"
    comparison = HumanComparison(judged)
    if comparison.votes.empty:
        return missing_section(title, _no_votes(judged))
    rows = list(_among_people(comparison))
    if judged.judge != "human":
        rows += [*_by_item(comparison), *_by_system(comparison)]
    if not rows:
        return missing_section(title, "no item has two ratings")
    frame = pd.DataFrame(
        [
            {
                "who": who,
                "statistic": statistic,
                "value [95%]": value.format(digits=3),
                "n": f"{value.n:,}",
            }
            for who, statistic, value in rows
        ]
    )
    notes = [
        f"{len(comparison.votes):,} votes on {len(comparison.items):,} items. An item is a match "
        "as it was shown, its categories first, second and tie; n counts items, or systems.",
        "The majority is what more than half of the votes are for, a tie where nothing is. Votes "
        "are not by the same persons throughout, so kappa among people is Fleiss'.",
    ]
    facts = as_facts({f"{who}: {statistic}": value for who, statistic, value in rows})
    return AuditSection(title=title, frame=frame, notes=notes, facts=facts)


def self_preference(judged: JudgeVerdicts) -> AuditSection:
    """Return what the judge gives each system beyond what people give it, itself among them."""
    title = "Self-preference"
    if judged.judge not in judged.systems:
        return missing_section(title, f"the judge {judged.judge!r} is not one of the systems")
    comparison = HumanComparison(judged)
    if comparison.votes.empty:
        return missing_section(title, _no_votes(judged))
    codes = comparison.items[["same", "other"]].to_numpy()
    both_orders = np.isfinite(codes).all(axis=1)
    items = comparison.items[both_orders].assign(
        judge=POINTS[codes[both_orders].astype(int)].mean(axis=1),
        people=POINTS[comparison.majority[both_orders]],
    )
    estimates = {}
    for name in judged.systems:
        first, second = items[items["first"] == name], items[items["second"] == name]
        points = ["judge", "people"]
        part = pd.concat([first, second.assign(**{by: 1 - second[by] for by in points})])
        if not part.empty:
            estimates[name] = {by: judged.estimate_share(part, part[by]) for by in points} | {
                "beyond": judged.estimate_mean(part, part["judge"] - part["people"])
            }
    ordered = sorted(estimates, key=lambda name: -(estimates[name]["beyond"].value or 0.0))
    frame = pd.DataFrame(
        [
            {
                "system": f"{name} (the judge)" if name == judged.judge else name,
                "n": f"{estimates[name]['judge'].n:,}",
                "points by the judge, %": format_percent(estimates[name]["judge"]),
                "by the human majority, %": format_percent(estimates[name]["people"]),
                "beyond, points %": format_percent(estimates[name]["beyond"], sign=True),
                **_elo_columns(judged.ranking, comparison.ranking, name),
            }
            for name in ordered
        ]
    )
    notes = [
        "The same matches, the judge's mean over both orders. Points sum to a constant, so what "
        "one system gains others lose.",
        "A judge may also see what people miss, or disagree less with itself than people do with "
        "each other, which spreads systems further apart: this bounds self-preference, and does "
        "not prove it.",
    ]
    beyond = estimates[judged.judge]["beyond"]
    return AuditSection(
        title=title,
        frame=frame,
        notes=notes,
        facts={name: as_facts(each) for name, each in estimates.items()},
        headline=f"The judge gives itself {format_percent(beyond, sign=True)} points beyond people "
        f"(n = {beyond.n:,})",
    )


def _no_votes(judged: JudgeVerdicts) -> str:
    return f"no human vote is on these systems and prompts of {judged.benchmark!r}"


def _among_people(comparison: HumanComparison) -> Iterator[Row]:
    votes = comparison.vote_counts
    ratings = votes.sum(axis=1)
    usual = np.bincount(ratings.astype(int)).argmax()
    several = ratings >= 2
    if usual >= 2:
        value = comparison.estimate(fleiss_kappa, votes, ratings == usual)
        yield "people", "Fleiss' kappa", value
    if several.any():
        value = comparison.estimate(krippendorff_alpha, votes, several)
        yield "people", "Krippendorff's alpha", value


def _by_item(comparison: HumanComparison) -> Iterator[Row]:
    for reading, who in READINGS.items():
        codes = comparison.items[reading].to_numpy()
        known = np.isfinite(codes)
        if not known.any():
            continue
        pairs = np.column_stack([comparison.majority, np.nan_to_num(codes)])  # (N, 2)
        for name, statistic in (
            ("same verdict", _share_same),
            ("Cohen's kappa", _cohen_of_pairs),
            ("Fleiss' kappa", _fleiss_of_pairs),
        ):
            yield f"judge {who}", name, comparison.estimate(statistic, pairs, known)


def _by_system(comparison: HumanComparison) -> Iterator[Row]:
    judge, people = comparison.judged.ranking, comparison.ranking
    shared = judge.finite & people.finite
    if shared.sum() < 3:
        return
    skills = [ranking.fit.skills[shared] for ranking in (judge, people)]
    resampled = [ranking.resampled.skills[:, shared] for ranking in (judge, people)]
    for name, statistic in (("Kendall's tau", kendall_tau), ("Spearman's rho", spearman_rho)):
        value = BootstrapEstimate.from_resamples(
            statistic(*skills),
            np.array([statistic(x, y) for x, y in zip(*resampled, strict=True)]),
            prompts=min(judge.prompts, people.prompts),
            n=int(shared.sum()),
        )
        yield "judge, systems' Elo", name, value


def _share_same(pairs: Array) -> float:
    return float((pairs[:, 0] == pairs[:, 1]).mean())


def _cohen_of_pairs(pairs: Array) -> float:
    one, other = pairs.astype(np.intp).T
    return cohen_kappa(contingency_table(one, other, len(OUTCOMES)))


def _fleiss_of_pairs(pairs: Array) -> float:
    one, other = pairs.astype(np.intp).T
    one_hot = np.eye(len(OUTCOMES))
    return fleiss_kappa(one_hot[one] + one_hot[other])


def _elo_columns(judge: Ranking, people: Ranking, name: str) -> dict[str, str]:
    """Return both Elos of a system; none unless both average the same systems."""
    if not np.array_equal(judge.finite, people.finite):
        return {}
    return {
        "Elo by the judge": format_elo(judge.skill(name)),
        "Elo by people": format_elo(people.skill(name)),
    }
