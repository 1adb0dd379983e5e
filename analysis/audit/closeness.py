"""Does the place decide more between close systems? Bias of each pair against its distance."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.agreement import spearman
from analysis.audit.material import Material
from analysis.audit.section import Section, absent, percent
from analysis.ranking.bradley_terry import FIRST, SECOND, order_shows
from analysis.resampling import Array, Estimate, divided, estimate

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
