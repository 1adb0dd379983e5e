"""The order on the scale of points: what a system gains by being shown first (`score10`)."""

import numpy as np
import pandas as pd

from analysis.audit.material import Material
from analysis.audit.section import Section, absent

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
