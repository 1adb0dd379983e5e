"""Where the bias is: the same figures by category, language and length of the answers.

Does the place decide more between close systems? Bias of each pair against its distance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.judge_audit.counted_verdicts import Material, Section, absent, elo, oriented, percent
from analysis.judge_audit.position import SWAPPED
from analysis.ranking.bradley_terry import FIRST, SECOND, order_shows, rank_systems
from qlora_repro.stats.agreement import spearman
from qlora_repro.stats.bootstrap import FEWEST, Array, Estimate, divided, estimate

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


TITLE = "Bias against closeness"
FEWEST_PAIRS = 4  # of fewer no trend can be seen


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two systems that met in both orders."""

    name: str
    gap: float  # Elo
    bias: Estimate  # points of the first less those of the second; n counts verdicts
    expected: float  # the same by Bradley-Terry, in which the place is worth the same to all
    flipped: Estimate | None  # None: no prompt was judged in both orders
    gaps: Array  # (B,) resampled
    biases: Array  # (B,)


def closeness(material: Material) -> Section:
    """Return the bias of each pair of systems beside how close they are."""
    if not order_shows(material.counts.sum(axis=(0, 3)) > 0):
        return absent(TITLE, "each pair was shown in one order only")
    pairs = sorted(_pairs(material), key=lambda pair: pair.gap)
    if len(pairs) < FEWEST_PAIRS:
        return absent(TITLE, f"{len(pairs)} pairs of systems with an Elo met, too few for a trend")
    found = _trend(pairs, prompts=len(material.prompts))
    frame = pd.DataFrame(
        [
            {
                "pair": pair.name,
                "Elo apart": f"{pair.gap:.0f}",
                "n": f"{pair.bias.n:,}",
                "first less second, points %": pair.bias.text(scale=100, sign=True),
                "with one advantage for all, %": f"{100 * pair.expected:+.1f}",
                "full flip, %": "-" if pair.flipped is None else percent(pair.flipped),
            }
            for pair in pairs
        ]
    )
    said = [
        "A tie is half a point to each, both orders weigh the same; 0: the place decides nothing.",
        f"Spearman correlation of gap and bias over {found.n} pairs: {found.text(digits=2)}; "
        "negative where close pairs are the ones that go by their place.",
        "With one advantage for all: what Bradley-Terry expects if the place is worth as many Elo "
        "to each pair; far apart, it then moves fewer points.",
    ]
    if unbounded := material.ranking.unbounded():
        said.append(f"Without the pairs of {len(unbounded)} systems that have no finite Elo.")
    facts = {
        "spearman": found.facts(),
        "pairs": {
            pair.name: {"gap": pair.gap, "bias": pair.bias.facts(), "expected": pair.expected}
            for pair in pairs
        },
    }
    return Section(title=TITLE, frame=frame, notes=said, facts=facts)


def _pairs(material: Material) -> list[Pair]:
    total = material.counts.sum(axis=0)
    drawn = material.weights @ material.counts.reshape(len(material.counts), -1)
    bias, biases = _bias(_shares(total)), _bias(_shares(drawn.reshape(-1, *total.shape)))
    expected = _bias(material.ranking.fit.probabilities())
    skills, draws = material.ranking.fit.skills, material.ranking.draws.skills
    finite, flips = material.ranking.finite, _flips(material)
    made = []
    for i, j in np.argwhere(np.isfinite(np.triu(bias, k=1)) & np.triu(finite & finite[:, None], 1)):
        prompts = int((material.counts[:, i, j] + material.counts[:, j, i]).any(axis=1).sum())
        n = int(total[i, j].sum() + total[j, i].sum())
        names = material.systems[i], material.systems[j]
        made.append(
            Pair(
                name=" / ".join(names),
                gap=float(abs(skills[i] - skills[j])),
                bias=estimate(float(bias[i, j]), biases[:, i, j], prompts=prompts, n=n),
                expected=float(expected[i, j]),
                flipped=flips.get(names),
                gaps=abs(draws[:, i] - draws[:, j]),
                biases=biases[:, i, j],
            )
        )
    return made


def _trend(pairs: list[Pair], *, prompts: int) -> Estimate:
    """Return the rank correlation of gap and bias, over resamples in which all pairs met."""
    value = spearman(
        np.array([pair.gap for pair in pairs]), np.array([pair.bias.value for pair in pairs])
    )
    gaps, biases = (np.stack([getattr(pair, of) for pair in pairs]).T for of in ("gaps", "biases"))
    known = np.isfinite(gaps).all(axis=1) & np.isfinite(biases).all(axis=1)  # (B,)
    draws = [spearman(x, y) for x, y in zip(gaps[known], biases[known], strict=True)]
    return estimate(value, np.array(draws), prompts=prompts, n=len(pairs))


def _flips(material: Material) -> dict[tuple[str, str], Estimate]:
    """Return the share of full flips of each pair of systems."""
    swapped = material.twice
    flipped = (swapped["there"] == swapped["back"]) & (swapped["there"] != "tie")
    return {
        (str(low), str(high)): material.share(part, np.asarray(flipped[part.index], dtype=np.bool_))
        for (low, high), part in swapped.groupby(["low", "high"])
    }


def _shares(counts: Array) -> Array:
    return divided(counts, counts.sum(axis=-1, keepdims=True))


def _bias(shares: Array) -> Array:
    """Return points of the first less those of the second from shares of verdicts, (..., S, S)."""
    net = shares[..., FIRST] - shares[..., SECOND]
    return np.asarray((net + np.swapaxes(net, -1, -2)) / 2)
