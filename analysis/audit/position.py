"""Does the place decide? Verdicts by position, agreement after swapping, advantage in Elo."""

import numpy as np
import pandas as pd

from analysis.audit.material import OUTCOMES, Material, codes
from analysis.audit.section import Section, absent, elo, percent
from analysis.ranking.bradley_terry import START, order_shows
from analysis.resampling import Array, Mask

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
