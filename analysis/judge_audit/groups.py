"""Where the position bias is: by category, language and length, and between close systems.

B resamples, S systems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.judge_audit.verdict_counts import (
    OUTCOMES,
    PAIR,
    SWAPPED,
    AuditSection,
    JudgeVerdicts,
    as_facts,
    format_elo,
    format_percent,
    missing_section,
    orient_pairs,
)
from analysis.ranking.bradley_terry import FIRST, SECOND, is_order_identifiable, rank_systems
from qlora_repro.stats.agreement import spearman_rho
from qlora_repro.stats.intervals import MIN_PROMPTS, Array, BootstrapEstimate, divide_or_nan

MIN_LANGUAGE_PROMPTS = 20  # languages with fewer are put together
MIN_PAIRS = 4  # of fewer no trend can be seen
OTHERS = "others"


def bias_by_category(judged: JudgeVerdicts) -> AuditSection:
    """Return the position bias in each category of questions."""
    categories = judged.readable["category"].astype(object)
    categories = categories.where(categories != "", None)
    if categories.isna().all():
        return missing_section("By category", "no row has a category")
    return _audit_groups(judged, "category", categories)


def bias_by_language(judged: JudgeVerdicts) -> AuditSection:
    """Return the position bias in each language; those with few prompts are put together."""
    languages = judged.readable["lang"].astype(object)
    if languages.nunique() < 2:
        only = f"every row has the language {languages.iloc[0]!r}"
        why = only if languages.iloc[0] else "no row has a language"
        return missing_section("By language", why)
    prompts = judged.readable.groupby("lang", observed=True)["question"].nunique()
    large = set(prompts[prompts >= MIN_LANGUAGE_PROMPTS].index)
    section = _audit_groups(judged, "language", languages.where(languages.isin(large), OTHERS))
    if small := sorted(set(languages) - large):
        section.notes.append(
            f"{OTHERS}: {', '.join(small)}, of under {MIN_LANGUAGE_PROMPTS} prompts each."
        )
    return section


def bias_by_length(judged: JudgeVerdicts) -> AuditSection:
    """Return the position bias by the length of both answers together, in thirds."""
    lengths = orient_pairs(judged.readable)["length"]
    known = lengths.dropna()
    if known.empty:
        return missing_section("By length", "no row has the lengths of both answers")
    low, high = known.quantile([1 / 3, 2 / 3]).to_numpy()
    if low == high:
        why = f"most pairs have the same length, {low:.0f} characters"
        return missing_section("By length", why)
    names = [f"short (to {low:,.0f})", f"middle (to {high:,.0f})", f"long (over {high:,.0f})"]
    thirds = np.searchsorted([low, high], known.to_numpy(), side="left")
    groups = pd.Series(np.array(names, dtype=object)[thirds], known.index, dtype=object)
    section = _audit_groups(judged, "length", groups.reindex(lengths.index), names)
    section.notes.append(
        f"Characters of both answers; {len(known):,} of {len(lengths):,} verdicts have them."
    )
    return section


def _audit_groups(
    judged: JudgeVerdicts, what: str, groups: pd.Series, names: Sequence[str] | None = None
) -> AuditSection:
    """Return shares, agreement after swapping and the advantage in each group of verdicts."""
    verdicts = orient_pairs(judged.readable).assign(group=groups)
    group_of_pair = verdicts.drop_duplicates(PAIR)[[*PAIR, "group"]]
    pairs = judged.swapped_pairs.merge(group_of_pair, on=PAIR)
    pairs["same"] = pairs["low_first"] == pairs["high_first"].map(SWAPPED)
    rows, facts = [], {}
    for name in names or sorted(set(groups.dropna())):
        part, swapped = verdicts[verdicts["group"] == name], pairs[pairs["group"] == name]
        ranking = rank_systems(
            judged.count_verdicts(part), judged.weights, judged.systems, prior=judged.ranking.fit
        )
        estimates = judged.estimate_outcomes(part)
        estimates["same"] = judged.estimate_share(swapped, swapped["same"])
        estimates["advantage"] = ranking.advantage()
        rows.append(
            {
                what: name,
                "prompts": part["question"].nunique(),
                "n": f"{estimates['first'].n:,}",
                **{f"{key}, %": format_percent(estimates[key]) for key in OUTCOMES},
                "same after swap, %": format_percent(estimates["same"]),
                "advantage, Elo": format_elo(estimates["advantage"], sign=True),
            }
        )
        facts[name] = as_facts(estimates)
    notes = [
        "Advantage: what being shown first is worth; a group's skills are fitted, and drawn to all "
        "groups' (within a standard deviation of 174 Elo). "
        f"No interval under {MIN_PROMPTS} prompts."
    ]
    return AuditSection(
        title=f"By {what}", frame=pd.DataFrame(rows), notes=notes, facts={"groups": facts}
    )


@dataclass(frozen=True, kw_only=True)
class SystemPair:
    """Two systems that met in both orders."""

    name: str
    gap: float  # Elo
    bias: BootstrapEstimate  # points of the first less those of the second; n counts verdicts
    expected: float  # the same by Bradley-Terry, in which the order is worth the same to all
    flipped: BootstrapEstimate | None  # None: no prompt was judged in both orders
    gaps: Array  # (B,) resampled
    biases: Array  # (B,)


def bias_by_closeness(judged: JudgeVerdicts) -> AuditSection:
    """Return the bias of each pair of systems beside how close they are."""
    title = "Bias against closeness"
    if not is_order_identifiable(judged.counts.sum(axis=(0, 3)) > 0):
        return missing_section(title, "each pair was shown in one order only")
    pairs = sorted(_system_pairs(judged), key=lambda pair: pair.gap)
    if len(pairs) < MIN_PAIRS:
        why = f"{len(pairs)} pairs of systems with an Elo met, too few for a trend"
        return missing_section(title, why)
    trend = _estimate_trend(pairs, prompts=len(judged.prompts))
    frame = pd.DataFrame(
        [
            {
                "pair": pair.name,
                "Elo apart": f"{pair.gap:.0f}",
                "n": f"{pair.bias.n:,}",
                "first less second, points %": format_percent(pair.bias, sign=True),
                "with one advantage for all, %": f"{100 * pair.expected:+.1f}",
                "full flip, %": "-" if pair.flipped is None else format_percent(pair.flipped),
            }
            for pair in pairs
        ]
    )
    notes = [
        "A tie is half a point to each, both orders weigh the same; 0: the place decides nothing.",
        f"Spearman correlation of gap and bias over {trend.n} pairs: {trend.format(digits=2)}; "
        "negative where close pairs are the ones that go by their place.",
        "With one advantage for all: what Bradley-Terry expects if the place is worth as many Elo "
        "to each pair; far apart, it then moves fewer points.",
    ]
    if unbounded := judged.ranking.unbounded():
        notes.append(f"Without the pairs of {len(unbounded)} systems that have no finite Elo.")
    facts = {
        "spearman": trend.as_dict(),
        "pairs": {
            pair.name: {"gap": pair.gap, "bias": pair.bias.as_dict(), "expected": pair.expected}
            for pair in pairs
        },
    }
    return AuditSection(title=title, frame=frame, notes=notes, facts=facts)


def _system_pairs(judged: JudgeVerdicts) -> list[SystemPair]:
    counts, ranking = judged.counts, judged.ranking
    total = counts.sum(axis=0)
    resampled = (judged.weights @ counts.reshape(len(counts), -1)).reshape(-1, *total.shape)
    bias, biases = (
        _first_less_second(divide_or_nan(sums, sums.sum(axis=-1, keepdims=True)))
        for sums in (total, resampled)
    )
    expected = _first_less_second(ranking.fit.probabilities())
    skills, resampled_skills = ranking.fit.skills, ranking.resampled.skills
    flips = _flip_shares(judged)
    met = np.triu(np.isfinite(bias), 1) & ranking.finite & ranking.finite[:, None]
    pairs = []
    for i, j in np.argwhere(met):
        names = judged.systems[i], judged.systems[j]
        prompts = int((counts[:, i, j] + counts[:, j, i]).any(axis=1).sum())
        n = int(total[i, j].sum() + total[j, i].sum())
        pairs.append(
            SystemPair(
                name=" / ".join(names),
                gap=float(abs(skills[i] - skills[j])),
                bias=BootstrapEstimate.from_resamples(
                    float(bias[i, j]), biases[:, i, j], prompts=prompts, n=n
                ),
                expected=float(expected[i, j]),
                flipped=flips.get(names),
                gaps=abs(resampled_skills[:, i] - resampled_skills[:, j]),
                biases=biases[:, i, j],
            )
        )
    return pairs


def _estimate_trend(pairs: Sequence[SystemPair], *, prompts: int) -> BootstrapEstimate:
    """Return the rank correlation of gap and bias, over resamples in which all pairs met."""
    gaps, biases = np.array([pair.gaps for pair in pairs]), np.array([p.biases for p in pairs])
    known = np.isfinite(gaps).all(axis=0) & np.isfinite(biases).all(axis=0)  # (B,)
    resampled = [spearman_rho(x, y) for x, y in zip(gaps.T[known], biases.T[known], strict=True)]
    rho = spearman_rho(
        np.array([pair.gap for pair in pairs]), np.array([pair.bias.value for pair in pairs])
    )
    return BootstrapEstimate.from_resamples(rho, np.array(resampled), prompts=prompts, n=len(pairs))


def _flip_shares(judged: JudgeVerdicts) -> dict[tuple[str, str], BootstrapEstimate]:
    """Return the share of full flips of each pair of systems."""
    pairs = judged.swapped_pairs
    flipped = (pairs["low_first"] == pairs["high_first"]) & (pairs["low_first"] != "tie")
    return {
        (str(low), str(high)): judged.estimate_share(part, flipped[part.index])
        for (low, high), part in pairs.groupby(["low", "high"])
    }


def _first_less_second(shares: Array) -> Array:
    """Return points of the first less those of the second from shares of verdicts, (..., S, S)."""
    net = shares[..., FIRST] - shares[..., SECOND]
    return np.asarray((net + np.swapaxes(net, -1, -2)) / 2)
