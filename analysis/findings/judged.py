"""Verdicts as scores by question, and what finding 5 asks of them; of any judge, not only GPT-4.

A system's points in a match are 1 for a win, 1/2 for a tie, 0 for a loss. Verdicts on one question
are about the same answers, so questions are the units of every test.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.findings.margins import Fixed
from qlora_repro.stats.estimates import About, Measured, Missing, Part, paired_superiority
from qlora_repro.stats.rank_correlation import agreement, spearman

Array = NDArray[np.float64]
POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
HUMAN = "human"
FEWEST_SYSTEMS = 5  # a rank correlation of fewer has no interval


def points(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a row a system and verdict: judge, question, system, points; unread ones left out."""
    said = verdicts[verdicts["verdict"].notna()]
    won = said["verdict"].astype("str").map(POINTS).astype("float64")
    sides = [
        said[["judge", "question"]].assign(system=said[side].astype("str"), points=score)
        for side, score in (("first", won), ("second", 1 - won))
    ]
    return pd.concat(sides, ignore_index=True)


def by_people(verdicts: pd.DataFrame) -> pd.Series:
    """Return which verdicts are a person's: those of judges named human-1, human-2, ..."""
    return verdicts["judge"].astype("str").str.startswith(HUMAN)


def judge_parts(verdicts: pd.DataFrame, judge: str, fixed: Fixed) -> list[Part]:
    """Return the four parts of finding 5 for one judge of pairs; `own` system: of its name."""
    of = verdicts[verdicts["protocol"].astype("str") == "three_class"]
    people = of[by_people(of)]
    judged = of[of["judge"].astype("str") == judge]
    where = sorted(set(people["benchmark"].astype("str")))
    same = judged[judged["benchmark"].astype("str").isin(where)]
    parts: list[Part] = [
        _systems(same, people, judge),
        _single_answers(same, people, judge, fixed),
    ]
    for benchmark, part in judged.groupby(judged["benchmark"].astype("str")):
        parts.append(_order(part, f"{judge}: shown first over shown second, {benchmark}", fixed))
    parts.append(_itself(same, people, judge, fixed))
    return parts


def _systems(judged: pd.DataFrame, people: pd.DataFrame, judge: str) -> Part:
    part = f"{judge} and humans rank systems alike"
    by_judge, by_humans = (
        points(rows).groupby("system")["points"].mean() for rows in (judged, people)
    )
    shared = by_judge.index.intersection(by_humans.index)
    if len(shared) < FEWEST_SYSTEMS:
        needs = f"human verdicts on {FEWEST_SYSTEMS} systems or more; there are {len(shared)}"
        return Missing(part=part, needs=needs)
    rho = spearman(by_judge[shared].to_numpy(), by_humans[shared].to_numpy())
    others = [name for name in shared if name != judge]
    without = spearman(by_judge[others].to_numpy(), by_humans[others].to_numpy())
    note = f"without {judge} itself it is {without:.2f} over {len(others)}"
    about = About(part=part, unit="rho", n=len(shared), of="systems", notes=(note,))
    return agreement(rho, about, bound=0, above=True)


def _single_answers(judged: pd.DataFrame, people: pd.DataFrame, judge: str, fixed: Fixed) -> Part:
    """Compare with the majority of people on matches shown in the same order; no majority: out."""
    part = f"{judge} agrees with the human majority beyond chance"
    match = ["question", "first", "second"]
    votes = people[people["verdict"].notna()].astype(dict.fromkeys([*match, "verdict"], "str"))
    counted = votes.groupby([*match, "verdict"]).size().unstack(fill_value=0)
    said = judged[judged["verdict"].notna()].astype(dict.fromkeys([*match, "verdict"], "str"))
    one = said.drop_duplicates(match).set_index(match)["verdict"]
    clear = counted[counted.max(axis=1) * 2 > counted.sum(axis=1)].idxmax(axis=1)
    both = pd.concat({"people": clear, "judge": one}, axis=1, join="inner").reset_index()
    if both.empty:
        return Missing(part=part, needs="a human and a judge's verdict on the same match")
    shares = [both[name].value_counts(normalize=True) for name in ("people", "judge")]
    chance = float((shares[0] * shares[1]).sum())
    beyond = ((both["people"] == both["judge"]) - chance) / (1 - chance)  # its mean is kappa
    each = beyond.groupby(both["question"]).mean()
    note = f"{len(both):,} matches with a majority; the effect is Cohen's kappa"
    return _by_question(each, part, "kappa", fixed, note)


def _order(judged: pd.DataFrame, part: str, fixed: Fixed) -> Part:
    said = judged[judged["verdict"].notna()]
    favour = said["verdict"].astype("str").map({"first": 1.0, "tie": 0.0, "second": -1.0})
    each = favour.groupby(said["question"].astype("str")).mean()
    shown = set(zip(said["first"].astype("str"), said["second"].astype("str"), strict=True))
    if not all((second, first) in shown for first, second in shown):
        return Missing(part=part, needs="every pair in both orders")
    return _by_question(each * 100, part, "points of wins", fixed, f"{len(said):,} verdicts")


def _itself(judged: pd.DataFrame, people: pd.DataFrame, judge: str, fixed: Fixed) -> Part:
    part = f"{judge} gives its own answers more than humans do"
    given = [
        scored[scored["system"] == judge].groupby("question", observed=True)["points"].mean()
        for scored in (points(judged), points(people))
    ]
    both = pd.concat(given, axis=1, join="inner")
    if both.empty:
        return Missing(part=part, needs=f"a system named {judge}, judged by humans as well")
    each = 100 * (both.iloc[:, 0] - both.iloc[:, 1])
    return _by_question(
        each,
        part,
        "points a match, %",
        fixed,
        "were its eyes better than theirs, it would look the same",
    )


def _by_question(
    each: pd.Series, part: str, unit: str, fixed: Fixed, note: str
) -> Measured | Missing:
    values = each.to_numpy(np.float64)
    if len(values) < 2:
        return Missing(part=part, needs="more than one question")
    about = About(
        part=part, unit=unit, n=len(values), of="questions", notes=(note,) if note else ()
    )
    return paired_superiority(
        values, about, resamples=fixed.resamples, fewest=fixed.fewest_flipped, seed=fixed.seed
    )
