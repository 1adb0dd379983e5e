"""Does the order decide? Shares of verdicts, agreement after swapping, what being first is worth.

Then what changes with the order: winners of pairs, ranks, the ranking that a merge rule gives, and
on the scale of points what a system gains by being shown first (`score10`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.judge_audit.verdict_counts import (
    OUTCOMES,
    SWAPPED,
    AuditSection,
    JudgeVerdicts,
    as_facts,
    category_codes,
    first_points,
    format_elo,
    format_percent,
    missing_section,
)
from analysis.ranking.bradley_terry import (
    MEAN_ELO,
    Ranking,
    is_order_identifiable,
    rank_skills,
    rank_systems,
)
from qlora_repro.stats.agreement import contingency_table, kendall_tau
from qlora_repro.stats.intervals import Array, BootstrapEstimate

WINS = ("first wins", "second wins", "tie")
NO_SWAPS = "no pair was judged in both orders"
POOLED = "pooled"
MERGE_RULES: dict[str, Callable[[pd.DataFrame], Array]] = {  # the verdict on low (1, 0, -1), (N,)
    "first order": lambda pairs: _signs(pairs["low_first"]),
    "second order": lambda pairs: -_signs(pairs["high_first"]),
    "disagreement is a tie": lambda pairs: np.where(
        pairs["low_first"] == pairs["high_first"].map(SWAPPED), _signs(pairs["low_first"]), 0.0
    ),
    "mean of scores": lambda pairs: np.sign(pairs["low_first_margin"] + pairs["high_first_margin"]),
}
GAIN_KEYS = ["question", "system", "other"]


def verdict_shares(judged: JudgeVerdicts) -> AuditSection:
    """Return how often the answer shown first wins, the second, neither; and what was not read."""
    readable = judged.readable
    missing = judged.rows["verdict"].isna()
    shares = judged.estimate_outcomes(readable)
    shares["unread"] = judged.estimate_share(judged.rows, missing)
    ns = [*((readable["verdict"] == name).sum() for name in OUTCOMES), missing.sum()]
    frame = pd.DataFrame(
        {
            "verdict": [*OUTCOMES, "could not be read"],
            "n": [f"{n:,}" for n in ns],
            "share, % [95%]": [format_percent(share) for share in shares.values()],
        }
    )
    note = (
        f"{len(readable):,} verdicts on {len(judged.prompts):,} prompts, {len(judged.systems)} "
        "systems; the unread ones' share is of all rows."
    )
    return AuditSection(
        title="Verdicts by position", frame=frame, notes=[note], facts=as_facts(shares)
    )


def swap_agreement(judged: JudgeVerdicts) -> AuditSection:
    """Return agreement after swapping, and what each verdict turns into (3 x 3)."""
    title = "Agreement after swapping"
    pairs = judged.swapped_pairs
    if pairs.empty:
        return missing_section(title, NO_SWAPS)
    low_first, high_first = pairs["low_first"], pairs["high_first"]
    always_first = (low_first == "first") & (high_first == "first")
    always_second = (low_first == "second") & (high_first == "second")
    shares = {
        name: judged.estimate_share(pairs, holds)
        for name, holds in {
            "same": low_first == high_first.map(SWAPPED),
            "flipped": always_first | always_second,
            "always_first": always_first,
            "always_second": always_second,
            "half": (low_first == "tie") ^ (high_first == "tie"),
        }.items()
    }
    percent = {name: f"{format_percent(share)}%" for name, share in shares.items()}
    met = contingency_table(
        category_codes(low_first, OUTCOMES), category_codes(high_first, OUTCOMES), len(OUTCOMES)
    )
    table = met + met.T  # (3, 3), each pair both ways
    cells = [[f"{n:,.0f} ({100 * n / max(row.sum(), 1):.1f}%)" for n in row] for row in table]
    frame = pd.DataFrame(cells, columns=[f"after: {name}" for name in WINS])
    frame.insert(0, "in one order", list(WINS))
    notes = [
        f"{len(pairs):,} pairs of answers judged in both orders. Each is counted from both sides, "
        "so the table has twice as many; percent are of its rows. First and second are places: a "
        "judge that goes by the answers alone fills second after first, first after second, tie "
        "after tie.",
        f"Same verdict {percent['same']}, full flip {percent['flipped']}: whichever is first wins "
        f"{percent['always_first']}, whichever is second {percent['always_second']}; a tie in one "
        f"order only {percent['half']}.",
    ]
    return AuditSection(
        title=title,
        frame=frame,
        notes=notes,
        facts=as_facts(shares) | {"turned_into": table.tolist()},
        headline=f"{percent['flipped']} of pairs change their winner when swapped; in "
        f"{percent['always_first']} it is whichever is first (n = {len(pairs):,})",
    )


def first_advantage(judged: JudgeVerdicts) -> AuditSection:
    """Return what being shown first is worth in Elo, beside skills, rank intervals and ties."""
    ranking = judged.ranking
    advantage = ranking.advantage()
    systems = ranking.ordered()
    frame = pd.DataFrame(
        [
            {
                "system": name,
                "Elo [95%]": format_elo(ranking.skill(name)),
                "rank [95%]": ranking.rank(name).format(digits=0),
                "P(beats next)": "-" if below is None else f"{ranking.beats(name, below):.3f}",
            }
            for name, below in zip(systems, [*systems[1:], None], strict=True)
        ]
    )
    if advantage.value is None:
        why = "pairs were shown in one order only"
        if is_order_identifiable(judged.counts.sum(axis=(0, 3)) > 0):
            why = "every verdict is for one place"
        headline = f"First-position advantage not computed: {why}."
    else:
        headline = (
            f"Being shown first is worth {format_elo(advantage, sign=True)} Elo "
            f"(n = {advantage.n:,}, {ranking.prompts:,} prompts)."
        )
    notes = [
        headline,
        f"Bradley-Terry with Davidson's ties, mean {MEAN_ELO:.0f}; {ranking.matches:,} verdicts, "
        f"intervals over {len(judged.weights):,} resamples of {ranking.prompts:,} prompts. "
        "P(beats next): share of them.",
        f"A tie between equals without an order: {format_percent(ranking.tie_rate())}%.",
    ]
    if unbounded := ranking.unbounded():
        notes.append(
            f"No finite Elo, as every or nearly every point went one way: {', '.join(unbounded)}."
        )
    facts = {
        "advantage": advantage.as_dict(),
        "tie_rate": ranking.tie_rate().as_dict(),
        **_skill_facts(ranking, systems),
        "beats": {
            one: {other: ranking.beats(one, other) for other in systems if other != one}
            for one in systems
        },
    }
    return AuditSection(
        title="First-position advantage", frame=frame, notes=notes, facts=facts, headline=headline
    )


def pair_winners_by_order(judged: JudgeVerdicts) -> AuditSection:
    """Return each pair's points in either order, and whether the order decides its winner."""
    title = "Pairs by order"
    pairs = judged.swapped_pairs
    if pairs.empty:
        return missing_section(title, NO_SWAPS)
    rows, facts, changed = [], {}, 0
    for (low, high), part in pairs.groupby(["low", "high"]):
        points = {
            "shown_first": judged.estimate_share(part, first_points(part["low_first"])),
            "shown_second": judged.estimate_share(part, 1 - first_points(part["high_first"])),
        }
        winners = [_winner(points[order], str(low), str(high)) for order in points]
        changed += winners[0] != winners[1]
        rows.append(
            {
                "pair": f"{low} / {high}",
                "n": len(part),
                "points of the left, shown first, %": format_percent(points["shown_first"]),
                "shown second, %": format_percent(points["shown_second"]),
                "winner": winners[0] if winners[0] == winners[1] else "turns with the order",
            }
        )
        facts[f"{low} / {high}"] = as_facts(points)
    note = f"{changed} of {len(rows)} pairs of systems have another winner in the other order."
    return AuditSection(
        title=title,
        frame=pd.DataFrame(rows),
        notes=[note],
        facts={"turned": changed, "pairs": facts},
        headline=note,
    )


def ranks_by_order(judged: JudgeVerdicts) -> AuditSection:
    """Return each system's points and rank over the matches in which it was first, or second."""
    title = "Ranks by order"
    readable = judged.readable
    points: dict[str, dict[str, BootstrapEstimate]] = {}
    for name in judged.systems:
        first, second = (readable[readable[side] == name] for side in ("first", "second"))
        points[name] = {
            "first": judged.estimate_share(first, first_points(first["verdict"])),
            "second": judged.estimate_share(second, 1 - first_points(second["verdict"])),
        }
    if any(each.value is None for both in points.values() for each in both.values()):
        return missing_section(title, "some systems were only ever shown in one place")
    values = np.array([[each.value for each in both.values()] for both in points.values()])
    ranks = rank_skills(values.T).T.astype(int)  # (S, 2)
    frame = pd.DataFrame(
        {
            "system": list(points),
            "points when first, %": [format_percent(both["first"]) for both in points.values()],
            "rank": [str(rank) for rank in ranks[:, 0]],
            "points when second, %": [format_percent(both["second"]) for both in points.values()],
            "rank ": [str(rank) for rank in ranks[:, 1]],
        }
    )
    changed = int((ranks[:, 0] != ranks[:, 1]).sum())
    note = (
        f"{changed} of {len(frame)} systems rank otherwise when second than when first. Opponents "
        "are those that each happened to meet."
    )
    facts = {"moved": changed, "systems": {name: as_facts(both) for name, both in points.items()}}
    order = np.argsort(ranks[:, 0])
    return AuditSection(title=title, frame=frame.iloc[order], notes=[note], facts=facts)


def rankings_by_merge_rule(judged: JudgeVerdicts) -> AuditSection:
    """Return the ranking that each way of making one verdict of two orders gives."""
    title = "Ranking by merge rule"
    pairs = judged.swapped_pairs
    if pairs.empty:
        return missing_section(title, NO_SWAPS)
    rankings = rank_by_rule(judged)
    pooled = rankings[POOLED]
    systems = pooled.ordered()
    frame = pd.DataFrame({"system": systems})
    for rule, ranking in rankings.items():
        frame[rule] = [
            f"{format_elo(ranking.skill(name))} #{ranking.rank(name).value:.0f}" for name in systems
        ]
    changed = {rule: _rank_changes(rankings[rule], pooled) for rule in MERGE_RULES}
    notes = [
        f"Elo [95%] and rank by Bradley-Terry, {len(pairs):,} pairs judged both ways.",
        "First order: of the two, the one in which the name that sorts first is shown first, as "
        "one file a pair would have it. Pooled: both, with a term for the order.",
        "Mean of scores: points of both orders added"
        + (", where a win is 1." if judged.protocol == "three_class" else "."),
        *(
            f"{rule}: {len(names)} systems rank otherwise than pooled"
            f"{' (' + ', '.join(names) + ')' if names else ''}, Kendall tau "
            f"{kendall_tau(rankings[rule].fit.skills, pooled.fit.skills):.2f}."
            for rule, names in changed.items()
        ),
    ]
    facts = {
        rule: {**_skill_facts(ranking, systems), "moved": changed.get(rule, [])}
        for rule, ranking in rankings.items()
    }
    most = max(len(changed[rule]) for rule in ("first order", "second order"))
    return AuditSection(
        title=title,
        frame=frame,
        notes=notes,
        facts=facts,
        headline=f"One order alone (by name) ranks up to {most} of {int(pooled.finite.sum())} "
        "systems otherwise than both together",
    )


def rank_by_rule(judged: JudgeVerdicts) -> dict[str, Ranking]:
    """Return the ranking of pairs judged in both orders under each rule, pooled in the middle."""
    pairs = judged.swapped_pairs
    counts = {rule: _count_signs(judged, verdict(pairs)) for rule, verdict in MERGE_RULES.items()}
    high_first = _count_signs(judged, _signs(pairs["high_first"]))
    first, second, *others = counts
    counts[POOLED] = counts[first] + np.swapaxes(high_first, 1, 2)
    return {
        rule: rank_systems(counts[rule], judged.weights, judged.systems)
        for rule in (first, second, POOLED, *others)
    }


def score_gains(judged: JudgeVerdicts) -> AuditSection:
    """Return each system's points when shown first, less those when second, prompt by prompt."""
    title = "Points by position"
    gains = match_scores_by_order(judged.rows)
    if gains.empty:
        return missing_section(title, "no pair has points in both orders")
    notes = ["Matched: the same question and opponent, both orders with points."]
    groups = [("all systems", gains)]
    if reference := _find_reference(judged):
        of_reference = gains["system"] == reference
        reference_gains, gains = gains[of_reference], gains[~of_reference]
        groups = [(f"all but {reference}", gains), (f"{reference} (reference)", reference_gains)]
        notes.append(f"{reference} is in every match: its own points are the other side of them.")
    groups += [(str(name), part) for name, part in gains.groupby("system")]
    rows, facts = [], {}
    for name, part in groups:
        means = {
            column: judged.estimate_mean(part, part[column])
            for column in ("gain", "first", "second")
        }
        rows.append(
            {
                "system": name,
                "n": f"{means['gain'].n:,}",
                "points when first": means["first"].format(digits=2),
                "when second": means["second"].format(digits=2),
                "gain": means["gain"].format(digits=2, sign=True),
            }
        )
        facts[name] = as_facts(means)
    headline = (
        f"{rows[0]['system']}: {rows[0]['gain']} points by being shown first (n = {rows[0]['n']})"
    )
    return AuditSection(
        title=title, frame=pd.DataFrame(rows), notes=notes, facts=facts, headline=headline
    )


def match_scores_by_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a system's points in both orders: question, system, other, first, second, gain."""
    scored = rows[rows["score_first"].notna() & rows["score_second"].notna()]
    first = {"first": "system", "second": "other", "score_first": "first"}
    second = {"second": "system", "first": "other", "score_second": "second"}
    when_first, when_second = (
        scored[["question", *names]].rename(columns=names).drop_duplicates(GAIN_KEYS)
        for names in (first, second)
    )
    both = when_first.merge(when_second, on=GAIN_KEYS)
    return both.assign(gain=(both["first"] - both["second"]).astype(np.float64))


def _skill_facts(ranking: Ranking, systems: Sequence[str]) -> dict[str, Any]:
    return {
        "skills": as_facts({name: ranking.skill(name) for name in systems}),
        "ranks": as_facts({name: ranking.rank(name) for name in systems}),
    }


def _count_signs(judged: JudgeVerdicts, signs: Array) -> Array:
    """Return the signs of all swapped pairs as counts in which low is the first, (Q, S, S, 3)."""
    outcomes = np.where(signs > 0, 0, np.where(signs < 0, 1, 2))
    return judged.count_pairs(judged.swapped_pairs, outcomes, columns=("low", "high"))


def _rank_changes(ranking: Ranking, pooled: Ranking) -> list[str]:
    """Return the systems, of those with a finite Elo in both, that rank otherwise."""
    both = ranking.finite & pooled.finite
    changed = rank_skills(ranking.fit.skills[both]) != rank_skills(pooled.fit.skills[both])
    return [str(name) for name in np.array(pooled.systems)[both][changed]]


def _winner(points: BootstrapEstimate, low: str, high: str) -> str:
    value = points.value
    assert value is not None  # a group has rows
    return "neither" if value == 0.5 else low if value > 0.5 else high


def _signs(verdicts: pd.Series) -> Array:
    """Return 1, -1 or 0 for the answer shown first."""
    return 2 * first_points(verdicts) - 1


def _find_reference(judged: JudgeVerdicts) -> str | None:
    """Return the one system that is in every match, if there is one."""
    first, second = judged.rows["first"], judged.rows["second"]
    always = [name for name in judged.systems if ((first == name) | (second == name)).all()]
    return always[0] if len(always) == 1 else None
