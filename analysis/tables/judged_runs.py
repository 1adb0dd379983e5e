"""Verdicts on runs of the store, a row a pair of systems; a judge that stands in is named so."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.findings.ours_judged import NO_MODEL, of_runs
from analysis.paper_tables import signed
from analysis.table import Table
from qlora_repro.stats.paired import ratio_interval
from qlora_repro.store.load import folders, records

COLUMNS = (
    *("judge", "benchmark", "system", "opponent", "wins", "ties", "losses"),
    *("net wins, %", "95% interval", "first shown wins, %", "n", "unread"),
)
WORTH = {"first": 1.0, "tie": 0.0, "second": -1.0}
KEYS = ["judge", "benchmark", "protocol", "system", "opponent"]


def build(root: Path) -> Table:
    """Return a row a judge and pair, both orders together, in the paper's terms of Table 12."""
    found = of_runs(records(root, "judgments"))
    pairs = _oriented(found).groupby(KEYS, sort=True) if not found.empty else ()
    rows = [_row([str(part) for part in key], of) for key, of in pairs]
    return Table(
        title="Verdicts on our runs",
        frame=pd.DataFrame(rows, columns=list(COLUMNS)),
        notes=[
            "net wins: wins less losses in % of the verdicts that could be read, n; interval: 95%, "
            "over draws of the questions",
            "a judge that is a stand-in is no language model: it compares with a right answer, and "
            "its verdicts are no figures of the paper's kind",
            *_marked(found),
            *(
                []
                if rows
                else ["No run has been judged; python run.py experiments=table7_elo does."]
            ),
        ],
        runs=folders(found),
    )


def _oriented(found: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts as seen from the system whose name comes first."""
    swapped = found["first"] > found["second"]
    worth = found["verdict"].map(WORTH)
    return found.assign(
        system=found["first"].where(~swapped, found["second"]),
        opponent=found["second"].where(~swapped, found["first"]),
        worth=worth.where(~swapped, -worth),
    )


def _row(key: list[str], of: pd.DataFrame) -> dict[str, str]:
    judge, benchmark, protocol, system, opponent = key
    read = of[of["worth"].notna()]
    sums = read.groupby("question")["worth"].agg(["sum", "size"]).to_numpy(np.float64)  # (Q, 2)
    low, high = ratio_interval(sums[:, 0], sums[:, 1]) if len(sums) > 1 else (np.nan, np.nan)
    first = read["verdict"].eq("first").mean()
    return {
        "judge": f"{'stand-in ' if judge in NO_MODEL else ''}{judge}, {protocol}",
        "benchmark": benchmark,
        "system": system,
        "opponent": opponent,
        "wins": f"{(read['worth'] > 0).sum():,}",
        "ties": f"{(read['worth'] == 0).sum():,}",
        "losses": f"{(read['worth'] < 0).sum():,}",
        "net wins, %": signed(100 * read["worth"].mean(), 1) if len(read) else "-",
        "95% interval": "-" if np.isnan(low) else f"[{100 * low:+.1f}, {100 * high:+.1f}]",
        "first shown wins, %": f"{100 * first:.1f}" if len(read) else "-",
        "n": f"{len(read):,} on {len(sums)} questions",
        "unread": str(len(of) - len(read)),
    }


def _marked(found: pd.DataFrame) -> list[str]:
    if found.empty:
        return []
    said = found[["note", "dirty", "folder"]].drop_duplicates().to_dict("records")
    return [  # a record's `model` is the judge's
        *dict.fromkeys(f"the systems' {row['note']}" for row in said if row["note"]),
        *(f"{row['folder']}: the code had uncommitted changes" for row in said if row["dirty"]),
    ]
