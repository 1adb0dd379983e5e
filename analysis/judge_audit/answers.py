"""Does something else than worth decide? Length; and the null test of equal answers."""

import numpy as np
import pandas as pd

from analysis.judge_audit.counted_verdicts import (
    OUTCOMES,
    Material,
    Section,
    absent,
    codes,
    percent,
    points,
)
from qlora_repro.stats.bootstrap import Array, Estimate, divided, estimate
from qlora_repro.stats.paired import wilson

MARGINS = ((1.0, 1.25), (1.25, 2.0), (2.0, np.inf))  # longer over shorter; the first without 1
GAIN = np.array([1.0, 0.0, 0.5])  # points of the one shown first


def verbosity(material: Material) -> Section:
    """Return what the longer answer wins, and how much of it skill and order do not explain."""
    title = "Verbosity"
    read = material.read
    ratio = (read["chars_first"] / read["chars_second"]).to_numpy(dtype=np.float64)
    usable = np.isfinite(ratio) & (ratio > 0) & (ratio != 1)
    if not usable.any():
        return absent(title, "no row has the lengths of two answers that differ in it")
    rows, longer = read[usable], np.maximum(ratio, 1 / np.where(ratio > 0, ratio, 1.0))[usable]
    places = [("all", np.ones(len(rows), dtype=bool))]
    places += [(_named(low, high), (longer > low) & (longer <= high)) for low, high in MARGINS]
    found = {name: _longer(material, rows[held], ratio[usable][held]) for name, held in places}
    frame = pd.DataFrame(
        [
            {
                "longer / shorter": name,
                "n": f"{won.n:,}",
                "points of the longer, %": percent(won),
                "expected of its system and place, %": percent(expected),
                "beyond, points %": beyond.text(scale=100, sign=True),
            }
            for name, (won, expected, beyond) in found.items()
        ]
    )
    said = [
        "A tie is half a point to each. Expected: by Bradley-Terry, which knows only the systems "
        "and the place; an answer both longer and better than its system's others counts as "
        "beyond, so this bounds the bias from above.",
        f"{int(usable.sum()):,} of {len(read):,} verdicts have two lengths that differ.",
    ]
    facts = {
        name: {"points": each[0].facts(), "expected": each[1].facts(), "beyond": each[2].facts()}
        for name, each in found.items()
    }
    won, _, beyond = found["all"]
    headline = (
        f"The longer answer gets {percent(won)}% of the points, "
        f"{beyond.text(scale=100, sign=True)} beyond what its system and place explain "
        f"(n = {won.n:,})"
    )
    return Section(title=title, frame=frame, notes=said, facts=facts, headline=headline)


def equal_answers(material: Material) -> Section:
    """Return the verdicts on equal answers: a judge that reads says tie."""
    title = "Null test: equal answers"
    ids = material.rows["answer_first"]
    if (ids == "").all():
        return absent(title, "no row has the ids of its answers")
    rows = material.rows[(ids == material.rows["answer_second"]) & (ids != "")]
    if rows.empty:
        return absent(title, "no row compares two equal answers")
    counts = {name: int((rows["verdict"] == name).sum()) for name in OUTCOMES}
    read = sum(counts.values())
    untied = read - counts["tie"]
    low, high = wilson(untied, read)
    frame = pd.DataFrame(
        {
            "verdict": [*OUTCOMES, "could not be read"],
            "n": [f"{n:,}" for n in (*counts.values(), len(rows) - read)],
        }
    )
    said = [
        f"{len(rows)} rows compare equal answers; {untied} of {read} verdicts are no tie "
        f"({100 * low:.1f} to {100 * high:.1f}%, Wilson, as if rows were independent)."
    ]
    facts = {**counts, "n": len(rows), "unread": len(rows) - read, "untied": [low, high]}
    return Section(title=title, frame=frame, notes=said, facts=facts)


def _longer(
    material: Material, rows: pd.DataFrame, ratio: Array
) -> tuple[Estimate, Estimate, Estimate]:
    """Return points of the longer answer, those expected of system and place, the difference."""
    first = ratio > 1
    gave = points(rows["verdict"])
    won = np.where(first, gave, 1 - gave)
    size = len(material.systems)
    at = (
        codes(rows["question"], material.prompts),
        codes(rows["first"], material.systems),
        codes(rows["second"], material.systems),
        np.where(first, 0, 1),
    )
    shown = np.zeros((len(material.prompts), size, size, 2))  # where the longer was shown
    np.add.at(shown, at, 1.0)
    wins = material.per_prompt(rows, won)
    value, wanted, n = _against(shown.sum(axis=0), wins.sum(), material.ranking.fit.probabilities())
    drawn = (material.weights @ shown.reshape(len(shown), -1)).reshape(-1, size, size, 2)
    values, wanteds, _ = _against(
        drawn, material.weights @ wins, material.ranking.draws.probabilities()
    )
    prompts = rows["question"].nunique()
    made = [(value, values), (wanted, wanteds), (value - wanted, values - wanteds)]
    one, two, three = (
        estimate(float(each), draws, prompts=prompts, n=int(n)) for each, draws in made
    )
    return one, two, three


def _against(shown: Array, wins: Array, chances: Array) -> tuple[Array, Array, Array]:
    """Return mean points, expected points, and matches: (...) from shown (..., S, S, 2)."""
    first = chances @ GAIN  # (..., S, S) expected points of the one shown first
    expected = (shown[..., 0] * first + shown[..., 1] * (1 - first)).sum(axis=(-2, -1))
    n = shown.sum(axis=(-3, -2, -1))
    return divided(np.asarray(wins), n), divided(expected, n), n


def _named(low: float, high: float) -> str:
    """Return a range as a table has it.

    >>> _named(1.25, 2.0), _named(2.0, np.inf)
    ('1.25 to 2', 'over 2')
    """
    return f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"
