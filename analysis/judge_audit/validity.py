"""What else may decide: length of the answers, equal answers, replies that could not be read."""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.judge_audit.verdict_counts import (
    OUTCOMES,
    POINTS,
    AuditSection,
    JudgeVerdicts,
    as_facts,
    first_points,
    format_percent,
    missing_section,
)
from qlora_repro.stats.intervals import Array, BootstrapEstimate, divide_or_nan, wilson_interval

LENGTH_RATIOS = ((1.0, 1.25), (1.25, 2.0), (2.0, np.inf))  # longer / shorter; above the first
MIN_RECOVERED = 20


def verbosity(judged: JudgeVerdicts) -> AuditSection:
    """Return what the longer answer wins, and how much of it skill and order do not explain."""
    title = "Verbosity"
    readable = judged.readable
    ratio = (readable["chars_first"] / readable["chars_second"]).to_numpy(dtype=np.float64)
    usable = np.isfinite(ratio) & (ratio > 0) & (ratio != 1)
    if not usable.any():
        return missing_section(title, "no row has the lengths of two answers that differ in it")
    rows, ratio = readable[usable], ratio[usable]
    longer = np.maximum(ratio, 1 / ratio)
    ranges = {"all": np.ones(len(rows), dtype=bool)}
    ranges |= {
        _name_range(low, high): (longer > low) & (longer <= high) for low, high in LENGTH_RATIOS
    }
    estimates = {
        name: _longer_points(judged, rows[within], ratio[within] > 1)
        for name, within in ranges.items()
    }
    frame = pd.DataFrame(
        [
            {
                "longer / shorter": name,
                "n": f"{each['points'].n:,}",
                "points of the longer, %": format_percent(each["points"]),
                "expected of its system and place, %": format_percent(each["expected"]),
                "beyond, points %": format_percent(each["beyond"], sign=True),
            }
            for name, each in estimates.items()
        ]
    )
    notes = [
        "A tie is half a point to each. Expected: by Bradley-Terry, which knows only the systems "
        "and the place; an answer both longer and better than its system's others counts as "
        "beyond, so this bounds the bias from above.",
        f"{len(rows):,} of {len(readable):,} verdicts have two lengths that differ.",
    ]
    points, beyond = estimates["all"]["points"], estimates["all"]["beyond"]
    return AuditSection(
        title=title,
        frame=frame,
        notes=notes,
        facts={name: as_facts(each) for name, each in estimates.items()},
        headline=f"The longer answer gets {format_percent(points)}% of the points, "
        f"{format_percent(beyond, sign=True)} beyond what its system and place explain "
        f"(n = {points.n:,})",
    )


def equal_answers(judged: JudgeVerdicts) -> AuditSection:
    """Return the verdicts on equal answers: a judge that reads says tie."""
    title = "Null test: equal answers"
    ids = judged.rows["answer_first"]
    if (ids == "").all():
        return missing_section(title, "no row has the ids of its answers")
    rows = judged.rows[(ids == judged.rows["answer_second"]) & (ids != "")]
    if rows.empty:
        return missing_section(title, "no row compares two equal answers")
    counts = _count_outcomes(rows["verdict"])
    n = sum(counts.values())
    untied = n - counts["tie"]
    low, high = wilson_interval(untied, n)
    frame = pd.DataFrame(
        {
            "verdict": [*OUTCOMES, "could not be read"],
            "n": [f"{count:,}" for count in (*counts.values(), len(rows) - n)],
        }
    )
    notes = [
        f"{len(rows)} rows compare equal answers; {untied} of {n} verdicts are no tie "
        f"({100 * low:.1f} to {100 * high:.1f}%, Wilson, as if rows were independent)."
    ]
    facts = {**counts, "n": len(rows), "unread": len(rows) - n, "untied": [low, high]}
    return AuditSection(title=title, frame=frame, notes=notes, facts=facts)


def parse_failures(judged: JudgeVerdicts) -> AuditSection:
    """Return unread replies by reason, and what a lenient reader finds in them."""
    title = "Parse failures by direction"
    rows = judged.rows
    failed = rows[rows["verdict"].isna()]
    if failed.empty:
        return missing_section(title, "every verdict was read")
    lenient = failed["verdict_lenient"].astype(object).fillna("none").rename("lenient")
    read = list(_count_outcomes(judged.readable["verdict"]).values())
    table = pd.crosstab(failed["parse"], lenient)
    table = table.reindex(columns=[*OUTCOMES, "none"], fill_value=0)
    table.loc["all failures"] = table.sum()
    table.loc["verdicts read"] = [*read, 0]
    frame = table.astype(int).map("{:,}".format).reset_index(names="parse")
    frame.columns.name = None
    recovered = _count_outcomes(lenient)
    either = rows.assign(
        verdict=rows["verdict"].where(rows["verdict"].notna(), rows["verdict_lenient"])
    )
    either = either[either["verdict"].notna()]
    shares = judged.estimate_outcomes(either)
    notes = [
        f"{len(failed):,} of {len(rows):,} verdicts could not be read; a lenient reader finds "
        f"{sum(recovered.values()):,}: {recovered['first']:,} for the first, "
        f"{recovered['second']:,} for the second, {recovered['tie']:,} ties.",
        _compare_with_read(np.array(list(recovered.values())), np.array(read)),
        "With the recovered ones: "
        + ", ".join(f"{name} {format_percent(share)}%" for name, share in shares.items())
        + ".",
    ]
    facts = {
        "failed": len(failed),
        "recovered": recovered,
        "by_parse": table.astype(int).to_dict(orient="index"),
        "shares_with_recovered": as_facts(shares),
    }
    return AuditSection(title=title, frame=frame, notes=notes, facts=facts, headline=notes[0])


def _count_outcomes(verdicts: pd.Series) -> dict[str, int]:
    return {name: int((verdicts == name).sum()) for name in OUTCOMES}


def _longer_points(
    judged: JudgeVerdicts, rows: pd.DataFrame, first_is_longer: Array
) -> dict[str, BootstrapEstimate]:
    """Return points of the longer answer, those expected of system and order, the difference."""
    points = first_points(rows["verdict"])
    longer = np.where(first_is_longer, points, 1 - points)
    shown = judged.count_pairs(rows, np.where(first_is_longer, 0, 1), size=2)  # the longer's place
    wins = judged.sum_by_prompt(rows, longer)
    resampled = (judged.weights @ shown.reshape(len(shown), -1)).reshape(-1, *shown.shape[1:])
    fit, fits = judged.ranking.fit, judged.ranking.resampled
    value, expected, n = _mean_points(shown.sum(axis=0), wins.sum(), fit.probabilities())
    values, expecteds, _ = _mean_points(resampled, judged.weights @ wins, fits.probabilities())
    return {
        name: BootstrapEstimate.from_resamples(
            float(each), resampled_shares, prompts=rows["question"].nunique(), n=int(n)
        )
        for name, each, resampled_shares in (
            ("points", value, values),
            ("expected", expected, expecteds),
            ("beyond", value - expected, values - expecteds),
        )
    }


def _mean_points(shown: Array, wins: Array, probabilities: Array) -> tuple[Array, Array, Array]:
    """Return mean points, expected points, and matches: (...) from shown (..., S, S, 2)."""
    first = probabilities @ POINTS  # (..., S, S) expected points of the one shown first
    expected = (shown[..., 0] * first + shown[..., 1] * (1 - first)).sum(axis=(-2, -1))
    n = shown.sum(axis=(-3, -2, -1))
    return divide_or_nan(np.asarray(wins), n), divide_or_nan(expected, n), n


def _name_range(low: float, high: float) -> str:
    """Return a range as a table has it.

    >>> _name_range(1.25, 2.0), _name_range(2.0, np.inf)
    ('1.25 to 2', 'over 2')
    """
    return f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"


def _compare_with_read(recovered: Array, read: Array) -> str:
    """Say whether the recovered verdicts are as the read ones: a chi-square test, (3,) each."""
    both = np.stack([recovered, read])
    both = both[:, both.sum(axis=0) > 0]
    if both.shape[1] < 2 or recovered.sum() < MIN_RECOVERED:
        return (
            f"Under {MIN_RECOVERED} were recovered: too few to compare them with the verdicts read."
        )
    test = stats.chi2_contingency(both)
    p = "< 0.001" if test.pvalue < 0.001 else f"= {test.pvalue:.3f}"
    return (
        f"Against the verdicts read: chi-square {test.statistic:.1f} on {test.dof} degrees of "
        f"freedom, p {p} (as if verdicts were independent)."
    )
