"""What a judge that is one of the systems gives itself, beyond what people give it."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.audit.compared import Compared
from analysis.audit.material import Material
from analysis.audit.section import Section, absent, elo, percent
from analysis.ranking.bradley_terry import Ranking
from analysis.resampling import Array, Mask

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
