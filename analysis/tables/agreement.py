"""Agreement of people with each other and with GPT-4 (Section 5.3), from the released verdicts."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.judge_audit.human_agreement import human_agreement
from analysis.judge_audit.verdict_counts import split_by_judge
from analysis.paper_tables import list_errata, load_cells, load_column
from analysis.table import Table, format_interval
from qlora_repro.errors import DataError
from qlora_repro.stats.agreement import kendall_tau, spearman_rho
from qlora_repro.store.verdicts import load_released_verdicts

STEM = "agreement"
RESAMPLES, SEED = 1000, 0
AUDITED = {  # (row, column) of the paper -> what the audit calls the same
    ("people", "fleiss"): "people: Fleiss' kappa",
    ("judge and majority", "fleiss"): "judge in the order people saw: Fleiss' kappa",
    ("systems", "kendall"): "judge, systems' Elo: Kendall's tau",
    ("systems", "spearman"): "judge, systems' Elo: Spearman's rho",
}
STATISTICS = {"kendall": kendall_tau, "spearman": spearman_rho}


def build_table(_results: Path) -> Table:
    """Return a row a statistic, from the released verdicts alone, whatever the results folder.

    Raises:
        DataError: The released verdicts lack those of GPT-4.
    """
    judges = split_by_judge(
        load_released_verdicts(), benchmark="vicuna", resamples=RESAMPLES, seed=SEED
    )
    gpt4 = [one for one in judges if (one.protocol, one.judge) == ("three_class", "gpt-4")]
    if not gpt4:
        raise DataError("the released verdicts have none of gpt-4 on vicuna; restore them from git")
    facts, printed = human_agreement(gpt4[0]).facts, load_cells(STEM)
    rows = []
    for (row, statistic), name in AUDITED.items():
        paper, ours = printed[row, statistic], facts[name]
        known, interval = ours["value"] is not None, ours["low"] is not None
        rows.append(
            {
                "agreement of": row,
                "statistic": statistic,
                "paper": f"{paper:.2f}",
                "Table 7's Elos": correlate_table7(statistic),
                "ours": f"{ours['value']:.3f}" if known else "-",
                "difference": f"{ours['value'] - paper:+.2f}" if known else "-",
                "interval": format_interval((ours["low"], ours["high"]), 2) if interval else "-",
                "n": f"{ours['n']:,}",
            }
        )
    return Table(
        title="Section 5.3: agreement with people, GPT-4 on Vicuna",
        frame=pd.DataFrame(rows),
        notes=[
            "Fleiss' kappa; n: matches that people voted on, and systems. Intervals over 1,000 "
            "resamples of the 80 prompts.",
            "Judge and majority: GPT-4 in the order that people saw, a tie where no outcome has "
            "two of three votes. Systems: Bradley-Terry Elo of both; Table 7's Elos: of its "
            "printed human and GPT-4 columns, with and without GPT-4 itself.",
            *list_errata(STEM),
        ],
    )


def correlate_table7(statistic: str) -> str:
    """Return what the printed Elos give, with GPT-4 and without; "-" for a kappa."""
    if statistic not in STATISTICS:
        return "-"
    people, judge = (
        load_column("table7_elo", "human_vicuna"),
        load_column("table7_elo", "gpt4_vicuna"),
    )
    values = []
    for systems in (list(people), [system for system in people if system != "gpt-4"]):
        ratings = [np.array([elo[system] for system in systems]) for elo in (people, judge)]
        values.append(f"{STATISTICS[statistic](*ratings):.2f}")
    return " / ".join(values)
