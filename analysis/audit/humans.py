"""Agreement among people, and of the judge with them: by example and by system."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.agreement import alpha, cohen, crossed, fleiss, kendall, spearman
from analysis.audit.compared import Compared
from analysis.audit.material import OUTCOMES, Material
from analysis.audit.section import Section, absent
from analysis.resampling import Array, Estimate, estimate

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
