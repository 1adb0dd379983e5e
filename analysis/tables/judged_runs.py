"""Verdicts on stored runs, a row a pair of systems; a judge that stands in is named so."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.artifacts.runs import add_run_facts, group_records, list_folders
from analysis.findings.evidence import NOT_LANGUAGE_MODELS, verdicts_on_runs
from analysis.table import Table, format_interval, format_signed
from qlora_repro.stats.intervals import ratio_interval
from qlora_repro.store.load import load_judgments

NET_WINS = {"first": 1.0, "tie": 0.0, "second": -1.0}
KEYS = ["judge", "benchmark", "protocol", "system", "opponent"]
NO_RUN = "No run has been judged; python run.py experiments=table7_elo does."


def build_table(results: Path) -> Table:
    """Return a row a judge and pair, both orders together, in the paper's terms of Table 12."""
    verdicts = add_run_facts(verdicts_on_runs(load_judgments(results)), results)
    pairs = _orient_pairs(verdicts).sort_values(KEYS) if len(verdicts) else verdicts
    rows = [_row([str(part) for part in key], pair) for key, pair in group_records(pairs, KEYS)]
    return Table(
        title="Verdicts on our runs",
        frame=pd.DataFrame(rows),
        notes=[
            "net wins: wins less losses in % of the verdicts that could be read, n; interval: 95%, "
            "over draws of the questions",
            "a judge that is a stand-in is no language model: it compares with a right answer, and "
            "its verdicts are no figures of the paper's kind",
            *_list_notes(verdicts),
        ],
        runs=list_folders(verdicts),
    )


def _orient_pairs(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts as seen from the system whose name comes first."""
    swapped = verdicts["first"] > verdicts["second"]
    net = verdicts["verdict"].map(NET_WINS)
    return verdicts.assign(
        system=verdicts["first"].where(~swapped, verdicts["second"]),
        opponent=verdicts["second"].where(~swapped, verdicts["first"]),
        net=net.where(~swapped, -net),
    )


def _row(key: list[str], verdicts: pd.DataFrame) -> dict[str, str]:
    judge, benchmark, protocol, system, opponent = key
    read = verdicts[verdicts["net"].notna()]
    sums = read.groupby("question")["net"].agg(["sum", "size"]).to_numpy(np.float64)  # (Q, 2)
    interval = ratio_interval(sums[:, 0], sums[:, 1]) if len(sums) > 1 else None
    row = {
        "judge": f"{'stand-in ' if judge in NOT_LANGUAGE_MODELS else ''}{judge}, {protocol}",
        "benchmark": benchmark,
        "system": system,
        "opponent": opponent,
        "wins": f"{(read['net'] > 0).sum():,}",
        "ties": f"{(read['net'] == 0).sum():,}",
        "losses": f"{(read['net'] < 0).sum():,}",
        "net wins, %": "-",
        "95% interval": "-",
        "first shown wins, %": "-",
        "n": f"{len(read):,} on {len(sums)} questions",
        "unread": str(len(verdicts) - len(read)),
    }
    if len(read):
        row["net wins, %"] = format_signed(100 * read["net"].mean(), 1)
        row["first shown wins, %"] = f"{100 * read['verdict'].eq('first').mean():.1f}"
    if interval is not None:
        row["95% interval"] = format_interval(interval, 1, signed=True, scale=100)
    return row


def _list_notes(verdicts: pd.DataFrame) -> list[str]:
    if verdicts.empty:
        return [NO_RUN]
    runs = verdicts.drop_duplicates(["note", "dirty", "folder"])
    dirty = runs.loc[runs["dirty"].astype(bool), "folder"]
    return [  # a verdict's `model` is the judge's
        *dict.fromkeys(f"the systems' {note}" for note in runs["note"].dropna()),
        *(f"{folder}: the code had uncommitted changes" for folder in dirty),
    ]
