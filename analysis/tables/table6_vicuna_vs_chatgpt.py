"""Table 6: scores relative to ChatGPT's on the Vicuna benchmark, GPT-4 judging."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.paper_tables import list_errata, load_column
from analysis.table import Table, format_interval, format_signed
from qlora_repro.stats.intervals import TAILS, Array, draw_prompt_weights
from qlora_repro.store.verdicts import load_released_verdicts

STEM = "table6_vicuna_vs_chatgpt"
REFERENCE = "chatgpt-3.5"
# the release has no ratings of the printed system, and these of the same data's larger mixture
RELEASED_AS = {"open-assistant-33b": "huggingchat-33b"}
CLOSE = 0.1 + 1e-9  # percentage points, of printed numbers with one decimal
REPLICATES = 10_000
ORDERS = ("chatgpt_first", "system_first")
TITLES = dict(zip((*ORDERS, "mean"), ("C first", "S first", "mean"), strict=True))
PRINTED = (*ORDERS, "mean", "ci95")
PrintedRow = Mapping[str, float]  # column -> value


@dataclass(frozen=True, kw_only=True)
class RelativeScore:
    """A system's score in % of ChatGPT's: ratios of sums over the questions."""

    chatgpt_first: float
    system_first: float
    mean: float  # of all points in both orders
    low: float  # 95% interval of the mean, over draws of the questions
    high: float
    lenient: float  # the mean with scores that only a lenient reader finds
    n: int  # replies with scores
    missing: int

    def is_close(self, printed: PrintedRow, *names: str) -> bool:
        """Whether the named values are the printed ones to a tenth of a point."""
        return all(abs(getattr(self, name) - printed[name]) <= CLOSE for name in names)


def build_table(_results: Path) -> Table:
    """Return a row a system, from the released verdicts alone, whatever the results folder.

    Systems that the paper leaves out come last.
    """
    scored = load_released_verdicts().query("protocol == 'score10'")
    columns = {name: load_column(STEM, name) for name in PRINTED}
    printed = {row: {name: columns[name][row] for name in PRINTED} for row in columns["mean"]}
    systems = {row: RELEASED_AS.get(row, row) for row in printed}
    others = sorted({*scored["first"], *scored["second"]} - {REFERENCE, *systems.values()})
    systems |= {system: system for system in others}
    scores = {row: score_against_chatgpt(scored, system) for row, system in systems.items()}
    return Table(
        title="Table 6: % of ChatGPT's score on the Vicuna benchmark, by GPT-4",
        frame=pd.DataFrame([_row(row, score, printed.get(row)) for row, score in scores.items()]),
        notes=[
            *_describe_agreement(scores, printed),
            *_explain_differences(scores, printed),
            *list_errata(STEM),
        ],
    )


def score_against_chatgpt(scored: pd.DataFrame, system: str) -> RelativeScore:
    """Return what a system scores relative to ChatGPT; replies without scores are left out."""
    system_points, reference = _points(scored, system)  # (2, Q)
    lenient_own, lenient_reference = _points(scored, system, suffix="_lenient")
    weights = draw_prompt_weights(system_points.shape[1], resamples=REPLICATES, seed=0)  # (B, Q)
    resampled = (weights @ np.nansum(system_points, axis=0)) / (
        weights @ np.nansum(reference, axis=0)
    )
    low, high = np.quantile(100 * resampled, TAILS)
    by_order = 100 * np.nansum(system_points, axis=1) / np.nansum(reference, axis=1)
    return RelativeScore(
        chatgpt_first=float(by_order[0]),
        system_first=float(by_order[1]),
        mean=100 * float(np.nansum(system_points) / np.nansum(reference)),
        low=float(low),
        high=float(high),
        lenient=100 * float(np.nansum(lenient_own) / np.nansum(lenient_reference)),
        n=int((~np.isnan(system_points)).sum()),
        missing=int(np.isnan(system_points).sum()),
    )


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


def _row(system: str, score: RelativeScore, printed: PrintedRow | None) -> dict[str, str]:
    row = {"system": system}
    for name, title in TITLES.items():
        row[f"{title}, paper"] = f"{printed[name]:.1f}" if printed else "-"
        row[f"{title}, ours"] = f"{getattr(score, name):.1f}"
    row["difference"] = format_signed(score.mean - printed["mean"], 1) if printed else "-"
    row["interval"] = format_interval((score.low, score.high), 1)
    row["n"] = str(score.n)
    return row


def _describe_agreement(
    scores: Mapping[str, RelativeScore], printed: Mapping[str, PrintedRow]
) -> list[str]:
    orders = sum(scores[row].is_close(values, *ORDERS) for row, values in printed.items())
    means = sum(scores[row].is_close(values, "mean") for row, values in printed.items())
    missing = sum(score.missing for score in scores.values())
    return [
        f"both orders agree with the paper to 0.1 in {orders} of {len(printed)} rows, the mean in "
        f"{means} of {len(printed)}",
        "C first: ChatGPT's answer is shown first, S first: the system's; ours: ratio of the sums "
        "of points, the mean of both orders together",
        "interval: 95%, over draws of the 80 questions; the paper's own intervals follow from no "
        "formula that was tried",
        f"n: replies with scores, of 160 in both orders; {missing} in all have none",
        "systems with '-' are released and not in the paper's table",
    ]


def _explain_differences(
    scores: Mapping[str, RelativeScore], printed: Mapping[str, PrintedRow]
) -> list[str]:
    """Return why rows differ, as far as numbers can tell."""
    notes = []
    for row, values in printed.items():
        score = scores[row]
        twins = [other for other, of in printed.items() if other != row and of == values]
        if score.is_close(values, *ORDERS, "mean"):
            continue
        if score.is_close(values, "mean"):
            exchanged = dict(zip(ORDERS, (values[name] for name in reversed(ORDERS)), strict=True))
            if score.is_close(exchanged, *ORDERS):
                notes.append(f"{row}: the two printed orders are ours, exchanged")
        elif twins:
            system = RELEASED_AS.get(row, row)
            notes.append(f"{row}: the printed row is that of {twins[0]}; ours is of {system}")
        elif score.missing:
            notes.append(
                f"{row}: {score.missing} replies on maths have no released score; with the scores "
                f"in their text the mean is {score.lenient:.1f}, printed is {values['mean']:.1f}"
            )
    return notes
