"""Table 6: scores relative to ChatGPT's on the Vicuna benchmark, GPT-4 judging."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.paper_tables import column, errata, signed
from analysis.table import Table
from qlora_repro.store.verdicts import released

ARTIFACT = "table6_vicuna_vs_chatgpt"
AGAINST = "chatgpt-3.5"
# the release has no ratings of the printed system, and these of the same data's larger mixture
RELEASED_AS = {"open-assistant-33b": "huggingchat-33b"}
CLOSE = 0.1 + 1e-9  # percentage points, of printed numbers with one decimal
REPLICATES = 10_000
LEVEL = (0.025, 0.975)
Printed = dict[str, float]  # column -> value of a printed row
ORDERS = ("chatgpt_first", "system_first")
PRINTED = (*ORDERS, "mean", "ci95")


@dataclass(frozen=True, kw_only=True)
class Relative:
    """A system's score in % of ChatGPT's: ratios of sums over the questions."""

    chatgpt_first: float
    system_first: float
    mean: float  # of all points in both orders
    low: float  # 95% interval of the mean, over draws of the questions
    high: float
    lenient: float  # the mean with scores that only a lenient reader finds
    n: int  # replies with scores
    missing: int


def build(_root: Path) -> Table:
    """Return a row a system, from the released verdicts alone, whatever the results folder."""
    return compare(released().query("protocol == 'score10'"))


def relative(scored: pd.DataFrame, system: str) -> Relative:
    """Return what a system scores relative to ChatGPT; replies without scores are left out."""
    strict, lenient = (_points(scored, system, suffix=suffix) for suffix in ("", "_lenient"))
    own, theirs = strict  # (2, Q)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(own.shape[1], np.full(own.shape[1], 1 / own.shape[1]), size=REPLICATES)
    means = 100 * (draws @ np.nansum(own, axis=0)) / (draws @ np.nansum(theirs, axis=0))
    low, high = np.quantile(means, LEVEL)
    by_order = 100 * np.nansum(own, axis=1) / np.nansum(theirs, axis=1)
    return Relative(
        chatgpt_first=float(by_order[0]),
        system_first=float(by_order[1]),
        mean=100 * float(np.nansum(own) / np.nansum(theirs)),
        low=float(low),
        high=float(high),
        lenient=100 * float(np.nansum(lenient[0]) / np.nansum(lenient[1])),
        n=int((~np.isnan(own)).sum()),
        missing=int(np.isnan(own).sum()),
    )


def _points(
    scored: pd.DataFrame, system: str, *, suffix: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the system's points and ChatGPT's: each (2, Q), ChatGPT shown first and second."""
    own, theirs = [], []
    for first, second, mine in ((AGAINST, system, "second"), (system, AGAINST, "first")):
        shown = scored[(scored["first"] == first) & (scored["second"] == second)]
        shown = shown.set_index("question").sort_index()
        other = "first" if mine == "second" else "second"
        own.append(shown[f"score_{mine}{suffix}"].to_numpy())
        theirs.append(shown[f"score_{other}{suffix}"].to_numpy())
    return np.stack(own), np.stack(theirs)


def compare(scored: pd.DataFrame) -> Table:
    """Set relative scores beside the printed ones; systems that the paper leaves out come last."""
    columns = {name: column(ARTIFACT, name) for name in PRINTED}
    paper = {row: {name: columns[name][row] for name in PRINTED} for row in columns["mean"]}
    names = {system: RELEASED_AS.get(system, system) for system in paper}
    others = sorted({*scored["first"], *scored["second"]} - {AGAINST, *names.values()})
    ours = {row: relative(scored, name) for row, name in names.items()}
    ours |= {name: relative(scored, name) for name in others}
    rows = [_row(row, found, paper.get(row)) for row, found in ours.items()]
    return Table(
        title="Table 6: % of ChatGPT's score on the Vicuna benchmark, by GPT-4",
        frame=pd.DataFrame(rows),
        notes=[*_agreement(ours, paper), *_explained(ours, paper), *errata(ARTIFACT)],
    )


def _row(system: str, ours: Relative, theirs: Printed | None) -> dict[str, str]:
    titles = zip(("C first", "S first", "mean"), (*ORDERS, "mean"), strict=True)
    row = {"system": system}
    for title, name in titles:
        row[f"{title}, paper"] = f"{theirs[name]:.1f}" if theirs else "-"
        row[f"{title}, ours"] = f"{getattr(ours, name):.1f}"
    row["difference"] = signed(ours.mean - theirs["mean"], 1) if theirs else "-"
    row["interval"] = f"[{ours.low:.1f}, {ours.high:.1f}]"
    row["n"] = str(ours.n)
    return row


def _close(ours: Relative, theirs: Printed, *names: str) -> bool:
    return all(abs(getattr(ours, name) - theirs[name]) <= CLOSE for name in names)


def _agreement(ours: dict[str, Relative], paper: dict[str, Printed]) -> list[str]:
    orders = sum(_close(ours[row], theirs, *ORDERS) for row, theirs in paper.items())
    means = sum(_close(ours[row], theirs, "mean") for row, theirs in paper.items())
    missing = sum(found.missing for found in ours.values())
    return [
        f"both orders agree with the paper to 0.1 in {orders} of {len(paper)} rows, the mean in "
        f"{means} of {len(paper)}",
        "C first: ChatGPT's answer is shown first, S first: the system's; ours: ratio of the sums "
        "of points, the mean of both orders together",
        "interval: 95%, over draws of the 80 questions; the paper's own intervals follow from no "
        "formula that was tried",
        f"n: replies with scores, of 160 in both orders; {missing} in all have none",
        "systems with '-' are released and not in the paper's table",
    ]


def _explained(ours: dict[str, Relative], paper: dict[str, Printed]) -> list[str]:
    """Return why rows differ, as far as numbers can tell."""
    said = []
    for row, theirs in paper.items():
        found = ours[row]
        same = [other for other, printed in paper.items() if other != row and printed == theirs]
        if _close(found, theirs, *ORDERS, "mean"):
            continue
        if _close(found, theirs, "mean"):
            crossed = {ORDERS[0]: theirs[ORDERS[1]], ORDERS[1]: theirs[ORDERS[0]]}
            if _close(found, crossed, *ORDERS):
                said.append(f"{row}: the two printed orders are ours, exchanged")
        elif same:
            system = RELEASED_AS.get(row, row)
            said.append(f"{row}: the printed row is that of {same[0]}; ours is of {system}")
        elif found.missing:
            said.append(
                f"{row}: {found.missing} replies on maths have no released score; with the scores "
                f"in their text the mean is {found.lenient:.1f}, printed is {theirs['mean']:.1f}"
            )
    return said
