"""What changes with the order: winners of pairs, ranks, and the ranking that a merge rule gives."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.agreement import kendall
from analysis.audit.material import Material, codes, points
from analysis.audit.position import NOT_SWAPPED, SWAPPED
from analysis.audit.section import Section, absent, elo, percent
from analysis.ranking.bradley_terry import Ranking, rank_systems, ranks
from analysis.resampling import Array, Estimate

POOLED = "pooled"
RULES: dict[str, Callable[[pd.DataFrame], Array]] = {  # the verdict on low (1, 0, -1), N pairs
    "first order": lambda pairs: _sign(pairs["there"]),
    "second order": lambda pairs: -_sign(pairs["back"]),
    "disagreement is a tie": lambda pairs: np.where(
        pairs["there"] == pairs["back"].map(SWAPPED), _sign(pairs["there"]), 0.0
    ),
    "mean of scores": lambda pairs: np.sign(pairs["there_margin"] + pairs["back_margin"]),
}


def pairs_by_order(material: Material) -> Section:
    """Return each pair's points in either order, and whether the place decides its winner."""
    title = "Pairs by order"
    pairs = material.twice
    if pairs.empty:
        return absent(title, NOT_SWAPPED)
    rows, facts, turned = [], {}, 0
    for (low, high), part in pairs.groupby(["low", "high"]):
        there = material.points(part, points(part["there"]))
        back = material.points(part, 1 - points(part["back"]))
        winners = [_winner(found, str(low), str(high)) for found in (there, back)]
        turned += winners[0] != winners[1]
        rows.append(
            {
                "pair": f"{low} / {high}",
                "n": len(part),
                "points of the left, shown first, %": percent(there),
                "shown second, %": percent(back),
                "winner": winners[0] if winners[0] == winners[1] else "turns with the order",
            }
        )
        facts[f"{low} / {high}"] = {"shown_first": there.facts(), "shown_second": back.facts()}
    said = [f"{turned} of {len(rows)} pairs of systems have another winner in the other order."]
    return Section(
        title=title,
        frame=pd.DataFrame(rows),
        notes=said,
        facts={"turned": turned, "pairs": facts},
        headline=said[0],
    )


def ranks_by_order(material: Material) -> Section:
    """Return each system's points and rank over the matches in which it was first, or second."""
    read = material.read
    found: dict[str, tuple[Estimate, Estimate]] = {}
    for name in material.systems:
        one, other = (read[read[side] == name] for side in ("first", "second"))
        found[name] = (
            material.points(one, points(one["verdict"])),
            material.points(other, 1 - points(other["verdict"])),
        )
    if any(each.value is None for both in found.values() for each in both):
        return absent("Ranks by order", "some systems were only ever shown in one place")
    values = np.array([[each.value for each in both] for both in found.values()])  # (S, 2)
    placed = ranks(values.T).T.astype(int)  # (S, 2)
    rows = [
        {
            "system": name,
            "points when first, %": percent(found[name][0]),
            "rank": str(first),
            "points when second, %": percent(found[name][1]),
            "rank ": str(second),
        }
        for name, (first, second) in zip(found, placed, strict=True)
    ]
    moved = int((placed[:, 0] != placed[:, 1]).sum())
    order = np.argsort(placed[:, 0])
    return Section(
        title="Ranks by order",
        frame=pd.DataFrame([rows[at] for at in order]),
        notes=[
            f"{moved} of {len(rows)} systems rank otherwise when second than when first. Opponents "
            "are those that each happened to meet."
        ],
        facts={
            "moved": moved,
            "systems": {
                name: {"first": both[0].facts(), "second": both[1].facts()}
                for name, both in found.items()
            },
        },
    )


def merge_rules(material: Material) -> Section:
    """Return the ranking that each way of making one verdict of two orders gives."""
    title = "Ranking by merge rule"
    if material.twice.empty:
        return absent(title, NOT_SWAPPED)
    found = by_rule(material)
    pooled = found[POOLED]
    systems = pooled.ordered()
    frame = pd.DataFrame({"system": systems})
    for rule, ranking in found.items():
        frame[rule] = [
            f"{elo(ranking.skill(name))} #{ranking.rank(name).value:.0f}" for name in systems
        ]
    moved = {rule: _moved(ranking, pooled) for rule, ranking in found.items() if rule != POOLED}
    said = [
        f"Elo [95%] and rank by Bradley-Terry, {len(material.twice):,} pairs judged both ways.",
        "First order: of the two, the one in which the name that sorts first is shown first, as "
        "one file a pair would have it. Pooled: both, with a term for the order.",
        "Mean of scores: points of both orders added"
        + (", where a win is 1." if material.protocol == "three_class" else "."),
        *(
            f"{rule}: {len(names)} systems rank otherwise than pooled"
            f"{' (' + ', '.join(names) + ')' if names else ''}, Kendall tau "
            f"{kendall(found[rule].fit.skills, pooled.fit.skills):.2f}."
            for rule, names in moved.items()
        ),
    ]
    facts = {
        rule: {
            "skills": {name: ranking.skill(name).facts() for name in systems},
            "ranks": {name: ranking.rank(name).facts() for name in systems},
            "moved": moved.get(rule, []),
        }
        for rule, ranking in found.items()
    }
    alone = max(len(moved[rule]) for rule in ("first order", "second order"))
    return Section(
        title=title,
        frame=frame,
        notes=said,
        facts=facts,
        headline=f"One order alone (by name) ranks up to {alone} of {int(pooled.finite.sum())} "
        "systems otherwise than both together",
    )


def by_rule(material: Material) -> dict[str, Ranking]:
    """Return the ranking of pairs judged in both orders under each rule, pooled in the middle."""
    pairs = material.twice
    made = {}
    for rule, verdict in RULES.items():
        counts = _merged(material, verdict(pairs))
        made[rule] = rank_systems(counts, material.weights, material.systems)
    both = _merged(material, _sign(pairs["there"]))
    both += np.swapaxes(_merged(material, _sign(pairs["back"])), 1, 2)
    pooled = rank_systems(both, material.weights, material.systems)
    first, second, *others = made
    return {name: made.get(name, pooled) for name in (first, second, POOLED, *others)}


def _merged(material: Material, signs: Array) -> Array:
    """Return signs, a pair's each, as counts in which low is the first, (Q, S, S, 3)."""
    size = len(material.systems)
    counts = np.zeros((len(material.prompts), size, size, 3))
    pairs = material.twice
    at = (
        codes(pairs["question"], material.prompts),
        codes(pairs["low"], material.systems),
        codes(pairs["high"], material.systems),
        np.where(signs > 0, 0, np.where(signs < 0, 1, 2)),
    )
    np.add.at(counts, at, 1.0)
    return counts


def _moved(ranking: Ranking, pooled: Ranking) -> list[str]:
    """Return the systems, of those with a finite Elo in both, that rank otherwise."""
    both = ranking.finite & pooled.finite
    ours, theirs = ranks(ranking.fit.skills[both]), ranks(pooled.fit.skills[both])
    names = [name for name, known in zip(pooled.systems, both, strict=True) if known]
    return [name for name, a, b in zip(names, ours, theirs, strict=True) if a != b]


def _winner(points: Estimate, low: str, high: str) -> str:
    value = points.value
    assert value is not None  # a group has rows
    return "neither" if value == 0.5 else low if value > 0.5 else high


def _sign(verdicts: pd.Series) -> Array:
    """Return 1, -1 or 0 for the answer shown first."""
    return 2 * points(verdicts) - 1
