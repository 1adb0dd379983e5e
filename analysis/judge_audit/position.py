"""Does the place decide? Verdicts by position, agreement after swapping, advantage in Elo.

What changes with the order: winners of pairs, ranks, and the ranking that a merge rule gives.

The order on the scale of points: what a system gains by being shown first (`score10`).
"""

from collections.abc import Callable

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
    points,
)
from analysis.ranking.bradley_terry import START, Ranking, order_shows, rank_systems, ranks
from qlora_repro.stats.agreement import kendall
from qlora_repro.stats.bootstrap import Array, Estimate, Mask

WINS = ("first wins", "second wins", "tie")
NOT_SWAPPED = "no pair was judged in both orders"
SWAPPED = {"first": "second", "second": "first", "tie": "tie"}


def shares(material: Material) -> Section:
    """Return how often the answer shown first wins, the second, neither; and what was not read."""
    read = material.read
    found = {name: material.share(read, _is(read["verdict"], name)) for name in OUTCOMES}
    unread = material.share(material.rows, material.rows["verdict"].isna().to_numpy())
    rows = [{"verdict": name, "share, % [95%]": percent(found[name])} for name in OUTCOMES]
    frame = pd.DataFrame(
        [*rows, {"verdict": "could not be read", "share, % [95%]": percent(unread)}]
    )
    counts = [int((read["verdict"] == name).sum()) for name in OUTCOMES]
    frame.insert(1, "n", [f"{n:,}" for n in (*counts, len(material.rows) - len(read))])
    said = [
        f"{len(read):,} verdicts on {len(material.prompts):,} prompts, {len(material.systems)} "
        "systems; the unread ones' share is of all rows."
    ]
    facts = {name: found[name].facts() for name in OUTCOMES} | {"unread": unread.facts()}
    return Section(title="Verdicts by position", frame=frame, notes=said, facts=facts)


def swapping(material: Material) -> Section:
    """Return agreement after swapping, and what each verdict turns into (3 x 3)."""
    pairs = material.twice
    if pairs.empty:
        return absent("Agreement after swapping", NOT_SWAPPED)
    there, back = pairs["there"], pairs["back"]
    always = {name: _is(there, name) & _is(back, name) for name in ("first", "second")}
    found = {
        "same": material.share(pairs, (there == back.map(SWAPPED)).to_numpy()),
        "flipped": material.share(pairs, always["first"] | always["second"]),
        "always_first": material.share(pairs, always["first"]),
        "always_second": material.share(pairs, always["second"]),
        "half": material.share(pairs, _is(there, "tie") ^ _is(back, "tie")),
    }
    turned = _turned(there, back)  # (3, 3)
    shown = [[f"{n:,.0f} ({100 * n / max(row.sum(), 1):.1f}%)" for n in row] for row in turned]
    frame = pd.DataFrame(shown, columns=[f"after: {name}" for name in WINS])
    frame.insert(0, "in one order", list(WINS))
    said = [
        f"{len(pairs):,} pairs of answers judged in both orders. Each is counted from both sides, "
        "so the table has twice as many; percent are of its rows. First and second are places: a "
        "judge that goes by the answers alone fills second after first, first after second, tie "
        "after tie.",
        f"Same verdict {percent(found['same'])}%, full flip {percent(found['flipped'])}%: "
        f"whichever is first wins {percent(found['always_first'])}%, whichever is second "
        f"{percent(found['always_second'])}%; a tie in one order only "
        f"{percent(found['half'])}%.",
    ]
    facts = {name: estimated.facts() for name, estimated in found.items()}
    return Section(
        title="Agreement after swapping",
        frame=frame,
        notes=said,
        facts=facts | {"turned_into": turned.tolist()},
        headline=f"{percent(found['flipped'])}% of pairs change their winner when swapped; in "
        f"{percent(found['always_first'])}% it is whichever is first (n = {len(pairs):,})",
    )


def advantage(material: Material) -> Section:
    """Return what being shown first is worth in Elo, beside skills, rank intervals and ties."""
    ranking = material.ranking
    order = ranking.advantage()
    by_skill = ranking.ordered()
    below = [*by_skill[1:], None]
    frame = pd.DataFrame(
        [
            {
                "system": name,
                "Elo [95%]": elo(ranking.skill(name)),
                "rank [95%]": ranking.rank(name).text(digits=0),
                "P(beats next)": "-" if other is None else f"{ranking.beats(name, other):.3f}",
            }
            for name, other in zip(by_skill, below, strict=True)
        ]
    )
    said = [
        f"Bradley-Terry with Davidson's ties, mean {START:.0f}; {ranking.matches:,} verdicts, "
        f"intervals over {len(material.weights):,} resamples of {ranking.prompts:,} prompts. "
        "P(beats next): share of them.",
        f"A tie between equals without an order: {percent(ranking.tie_rate())}%.",
    ]
    if order.value is None:
        shows = order_shows(material.counts.sum(axis=(0, 3)) > 0)
        why = "every verdict is for one place" if shows else "pairs were shown in one order only"
        said.insert(0, f"First-position advantage not computed: {why}.")
    else:
        worth = f"Being shown first is worth {elo(order, sign=True)} Elo"
        said.insert(0, f"{worth} (n = {order.n:,}, {ranking.prompts:,} prompts).")
    if unbounded := ranking.unbounded():
        said.append(
            f"No finite Elo, as every or nearly every point went one way: {', '.join(unbounded)}."
        )
    facts = {
        "advantage": order.facts(),
        "tie_rate": ranking.tie_rate().facts(),
        "skills": {name: ranking.skill(name).facts() for name in by_skill},
        "ranks": {name: ranking.rank(name).facts() for name in by_skill},
        "beats": {
            one: {other: ranking.beats(one, other) for other in by_skill if other != one}
            for one in by_skill
        },
    }
    return Section(
        title="First-position advantage", frame=frame, notes=said, facts=facts, headline=said[0]
    )


def _is(verdicts: pd.Series, name: str) -> Mask:
    return np.asarray(verdicts == name, dtype=np.bool_)


def _turned(there: pd.Series, back: pd.Series) -> Array:
    """Return verdicts in one order against those after swapping, each pair both ways, (3, 3)."""
    made = np.zeros((3, 3))
    at = codes(there, OUTCOMES), codes(back, OUTCOMES)
    np.add.at(made, at, 1.0)
    return made + made.T


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


KEYS = ["question", "system", "other"]


def score_scale(material: Material) -> Section:
    """Return each system's points when shown first, less those when second, prompt by prompt."""
    title = "Points by position"
    gains = gained(material.rows)
    if gains.empty:
        return absent(title, "no pair has points in both orders")
    reference = _reference(material)
    groups = [("all systems", gains)]
    if reference:
        mine = gains["system"] == reference
        groups = [(f"all but {reference}", gains[~mine]), (f"{reference} (reference)", gains[mine])]
        gains = gains[~mine]
    groups += [(str(name), part) for name, part in gains.groupby("system")]
    rows, facts = [], {}
    for name, part in groups:
        gain, first, second = (
            material.mean(part, part[column].to_numpy()) for column in ("gain", "first", "second")
        )
        rows.append(
            {
                "system": name,
                "n": f"{gain.n:,}",
                "points when first": first.text(digits=2),
                "when second": second.text(digits=2),
                "gain": gain.text(digits=2, sign=True),
            }
        )
        facts[name] = {"gain": gain.facts(), "first": first.facts(), "second": second.facts()}
    said = ["Matched: the same question and opponent, both orders with points."]
    if reference:
        said.append(f"{reference} is in every match: its own points are the other side of them.")
    headline = (
        f"{rows[0]['system']}: {rows[0]['gain']} points by being shown first (n = {rows[0]['n']})"
    )
    return Section(
        title=title, frame=pd.DataFrame(rows), notes=said, facts=facts, headline=headline
    )


def gained(rows: pd.DataFrame) -> pd.DataFrame:
    """Return points of each system in both places: question, system, other, first, second, gain."""
    scored = rows[rows["score_first"].notna() & rows["score_second"].notna()]
    names = {"first": "system", "second": "other", "score_first": "points"}
    swapped = {"second": "system", "first": "other", "score_second": "points"}
    first = scored.rename(columns=names)[[*KEYS, "points"]].drop_duplicates(KEYS)
    second = scored.rename(columns=swapped)[[*KEYS, "points"]].drop_duplicates(KEYS)
    both = first.merge(second, on=KEYS, suffixes=("_first", "_second"))
    both = both.rename(columns={"points_first": "first", "points_second": "second"})
    return both.assign(gain=(both["first"] - both["second"]).astype(np.float64))


def _reference(material: Material) -> str | None:
    """Return the one system that is in every match, if there is one."""
    rows = material.rows
    always = [
        name
        for name in material.systems
        if ((rows["first"] == name) | (rows["second"] == name)).all()
    ]
    return always[0] if len(always) == 1 else None
