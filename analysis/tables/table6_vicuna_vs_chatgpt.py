"""Table 6: scores relative to ChatGPT's on the Vicuna benchmark, GPT-4 judging."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper_tables import list_errata, load_column, load_grid
from analysis.table import Table, format_interval, format_signed
from qlora_repro.stats.intervals import TAILS, Array, draw_prompt_weights
from qlora_repro.store.verdicts import load_released_verdicts

STEM = "table6_vicuna_vs_chatgpt"
REFERENCE = "chatgpt-3.5"
# the release has no ratings of the printed system, and these of the same data's larger mixture
RELEASED_AS = {"open-assistant-33b": "huggingchat-33b"}
CLOSE = 0.1 + 1e-9  # percentage points, of printed numbers with one decimal
REPLICATES = 10_000
ORDERS = ["chatgpt_first", "system_first"]
TITLES = {"chatgpt_first": "C first", "system_first": "S first", "mean": "mean"}


def build_table(_results: Path) -> Table:
    """Return a row a system, from the released verdicts alone, whatever the results folder.

    Systems that the paper leaves out come last.
    """
    scored = load_released_verdicts().query("protocol == 'score10'")
    printed = load_grid(STEM).loc[list(load_column(STEM, "mean")), [*TITLES, "ci95"]]
    systems = {row: RELEASED_AS.get(row, row) for row in printed.index}
    others = sorted({*scored["first"], *scored["second"]} - {REFERENCE, *systems.values()})
    systems |= {system: system for system in others}
    scores = pd.DataFrame.from_dict(
        {row: score_against_chatgpt(scored, system) for row, system in systems.items()},
        orient="index",
    )
    paper = printed.reindex(scores.index)
    cells: dict[str, Any] = {"system": scores.index}
    for name, title in TITLES.items():
        cells[f"{title}, paper"] = paper[name].map("{:.1f}".format, na_action="ignore")
        cells[f"{title}, ours"] = scores[name].map("{:.1f}".format)
    difference = scores["mean"] - paper["mean"]
    cells["difference"] = difference.map(partial(format_signed, digits=1), na_action="ignore")
    intervals = zip(scores["low"], scores["high"], strict=True)
    cells["interval"] = [format_interval(interval, 1) for interval in intervals]
    cells["n"] = scores["n"].astype(str)
    return Table(
        title="Table 6: % of ChatGPT's score on the Vicuna benchmark, by GPT-4",
        frame=pd.DataFrame(cells).fillna("-"),
        notes=[
            *_describe_agreement(scores, printed),
            *_explain_differences(scores, printed),
            *list_errata(STEM),
        ],
    )


def score_against_chatgpt(scored: pd.DataFrame, system: str) -> dict[str, float]:
    """Return a system's score in % of ChatGPT's; replies without scores are left out.

    Ratios of sums over the questions: by order, the `mean` of all points in both orders with its
    95% interval over draws of the questions, and `lenient`, the mean with scores that only a
    lenient reader finds. `n` replies have scores, `missing` ones have not.
    """
    system_points, reference = _points(scored, system)  # (2, Q)
    lenient_own, lenient_reference = _points(scored, system, suffix="_lenient")
    weights = draw_prompt_weights(system_points.shape[1], resamples=REPLICATES, seed=0)  # (B, Q)
    resampled = (weights @ np.nansum(system_points, axis=0)) / (
        weights @ np.nansum(reference, axis=0)
    )
    by_order = 100 * np.nansum(system_points, axis=1) / np.nansum(reference, axis=1)
    return {
        **dict(zip(ORDERS, by_order.tolist(), strict=True)),
        "mean": 100 * float(np.nansum(system_points) / np.nansum(reference)),
        **dict(zip(("low", "high"), np.quantile(100 * resampled, TAILS).tolist(), strict=True)),
        "lenient": 100 * float(np.nansum(lenient_own) / np.nansum(lenient_reference)),
        "n": int((~np.isnan(system_points)).sum()),
        "missing": int(np.isnan(system_points).sum()),
    }


def _points(scored: pd.DataFrame, system: str, *, suffix: str = "") -> tuple[Array, Array]:
    """Return the system's points and ChatGPT's: each (2, Q), ChatGPT shown first and second."""
    system_points, reference = [], []
    for first, second in ((REFERENCE, system), (system, REFERENCE)):
        shown = scored[(scored["first"] == first) & (scored["second"] == second)]
        shown = shown.set_index("question").sort_index()
        points = [shown[f"score_{side}{suffix}"].to_numpy() for side in ("first", "second")]
        system_points.append(points[first == REFERENCE])
        reference.append(points[second == REFERENCE])
    return np.stack(system_points), np.stack(reference)


def _describe_agreement(scores: pd.DataFrame, printed: pd.DataFrame) -> list[str]:
    close = (scores - printed).loc[printed.index, [*TITLES]].abs() <= CLOSE
    orders, means = close[ORDERS].all(axis=1).sum(), close["mean"].sum()
    return [
        f"both orders agree with the paper to 0.1 in {orders} of {len(printed)} rows, the mean in "
        f"{means} of {len(printed)}",
        "C first: ChatGPT's answer is shown first, S first: the system's; ours: ratio of the sums "
        "of points, the mean of both orders together",
        "interval: 95%, over draws of the 80 questions; the paper's own intervals follow from no "
        "formula that was tried",
        f"n: replies with scores, of 160 in both orders; {scores['missing'].sum()} in all have "
        "none",
        "systems with '-' are released and not in the paper's table",
    ]


def _explain_differences(scores: pd.DataFrame, printed: pd.DataFrame) -> list[str]:
    """Return why rows differ, as far as numbers can tell."""
    notes = []
    for row, values in printed.iterrows():
        score = scores.loc[str(row)]
        close = (score - values).abs() <= CLOSE
        twins = printed.index[(printed == values).all(axis=1) & (printed.index != row)]
        if close[[*TITLES]].all():
            continue
        if close["mean"]:
            exchanged = score[ORDERS].to_numpy() - values[ORDERS[::-1]].to_numpy()
            if (abs(exchanged) <= CLOSE).all():
                notes.append(f"{row}: the two printed orders are ours, exchanged")
        elif len(twins):
            system = RELEASED_AS.get(str(row), row)
            notes.append(f"{row}: the printed row is that of {twins[0]}; ours is of {system}")
        elif score["missing"]:
            notes.append(
                f"{row}: {score['missing']:.0f} replies on maths have no released score; with the "
                f"scores in their text the mean is {score['lenient']:.1f}, printed is "
                f"{values['mean']:.1f}"
            )
    return notes
