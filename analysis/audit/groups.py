"""Where the bias is: the same figures by category, language and length of the answers."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.audit.material import Material, oriented
from analysis.audit.position import SWAPPED
from analysis.audit.section import Section, absent, elo, percent
from analysis.ranking.bradley_terry import rank_systems
from analysis.resampling import FEWEST, Estimate

FEW = 20  # prompts; smaller languages are put together
OTHERS = "others"


def by_category(material: Material) -> Section:
    """Return the order's part in each category of questions."""
    groups = material.read["category"].astype(object).where(material.read["category"] != "", None)
    if groups.isna().all():
        return absent("By category", "no row has a category")
    return _grouped(material, "category", groups)


def by_language(material: Material) -> Section:
    """Return the order's part in each language; those with few prompts are put together."""
    languages = material.read["lang"].astype(object)
    if languages.nunique() < 2:
        only = f"every row has the language {languages.iloc[0]!r}"
        return absent("By language", only if languages.iloc[0] else "no row has a language")
    prompts = material.read.groupby("lang", observed=True)["question"].nunique()
    large = set(prompts[prompts >= FEW].index)
    groups = languages.where(languages.isin(large), OTHERS)
    found = _grouped(material, "language", groups)
    small = sorted(set(languages) - large)
    if small:
        found.notes.append(f"{OTHERS}: {', '.join(small)}, of under {FEW} prompts each.")
    return found


def by_length(material: Material) -> Section:
    """Return the order's part by the length of both answers together, in thirds."""
    length = oriented(material.read)["length"]
    known = length.dropna()
    if known.empty:
        return absent("By length", "no row has the lengths of both answers")
    edges = known.quantile([1 / 3, 2 / 3]).to_numpy()
    if edges[0] == edges[1]:
        return absent("By length", f"most pairs have the same length, {edges[0]:.0f} characters")
    places = np.searchsorted(edges, known.to_numpy(), side="left")
    names = [
        f"short (to {edges[0]:,.0f})",
        f"middle (to {edges[1]:,.0f})",
        f"long (over {edges[1]:,.0f})",
    ]
    groups = pd.Series([names[at] for at in places], known.index, dtype=object)
    found = _grouped(material, "length", groups.reindex(length.index), order=names)
    found.notes.append(
        f"Characters of both answers; {len(known):,} of {len(length):,} verdicts have them."
    )
    return found


def _grouped(
    material: Material, what: str, groups: pd.Series, *, order: list[str] | None = None
) -> Section:
    rows, facts = [], {}
    for name, found, prompts in _each(material, groups, order or sorted(set(groups.dropna()))):
        gain = found["advantage"]
        rows.append(
            {
                what: name,
                "prompts": prompts,
                "n": f"{found['first'].n:,}",
                "first, %": percent(found["first"]),
                "second, %": percent(found["second"]),
                "tie, %": percent(found["tie"]),
                "same after swap, %": percent(found["same"]),
                "advantage, Elo": elo(gain, sign=True),
            }
        )
        facts[name] = {key: each.facts() for key, each in found.items()}
    said = [
        "Advantage: what being shown first is worth; a group's skills are fitted, and drawn to all "
        f"groups' (within a standard deviation of 174 Elo). No interval under {FEWEST} prompts."
    ]
    return Section(
        title=f"By {what}", frame=pd.DataFrame(rows), notes=said, facts={"groups": facts}
    )


def _each(
    material: Material, groups: pd.Series, names: list[str]
) -> Iterator[tuple[str, dict[str, Estimate], int]]:
    """Yield each group's name, shares, agreement after swapping and advantage, and its prompts."""
    pairs = material.twice
    keys = ["question", "low", "high"]
    own = oriented(material.read).assign(group=groups)
    group_of = own.drop_duplicates(keys)[[*keys, "group"]]
    pairs = pairs.merge(group_of, on=keys)
    same = (pairs["there"] == pairs["back"].map(SWAPPED)).to_numpy()
    for name in names:
        part, swapped = own[own["group"] == name], (pairs["group"] == name).to_numpy()
        ranking = rank_systems(
            material.count(part),
            material.weights,
            material.systems,
            towards=material.ranking.fit,
        )
        found = {
            word: material.share(part, (part["verdict"] == word).to_numpy())
            for word in ("first", "second", "tie")
        }
        found["same"] = material.share(pairs[swapped], same[swapped])
        yield name, found | {"advantage": ranking.advantage()}, part["question"].nunique()
