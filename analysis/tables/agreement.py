"""Agreement of people with each other and with GPT-4 (Section 5.3), from the released verdicts."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.judge_audit.counted_verdicts import materials
from analysis.judge_audit.humans import agreement
from analysis.paper_tables import column, errata
from analysis.table import Table
from qlora_repro.errors import DataError
from qlora_repro.stats.agreement import kendall, spearman
from qlora_repro.stats.bootstrap import Estimate
from qlora_repro.store.verdicts import released

ARTIFACT = "agreement"
RESAMPLES, SEED = 1000, 0
ROWS = (  # of the paper, its column there, what the audit calls the same
    ("people", "fleiss", "people: Fleiss' kappa"),
    ("judge and majority", "fleiss", "judge in the order people saw: Fleiss' kappa"),
    ("systems", "kendall", "judge, systems' Elo: Kendall's tau"),
    ("systems", "spearman", "judge, systems' Elo: Spearman's rho"),
)
STATISTICS = {"kendall": kendall, "spearman": spearman}


def build(_root: Path) -> Table:
    """Return a row a statistic, from the released verdicts alone, whatever the results folder."""
    parts = materials(released(), benchmark="vicuna", resamples=RESAMPLES, seed=SEED)
    judged = [part for part in parts if (part.protocol, part.judge) == ("three_class", "gpt-4")]
    if not judged:
        raise DataError("the released verdicts have none of gpt-4 on vicuna; restore them from git")
    return compare({key: Estimate(**facts) for key, facts in agreement(judged[0]).facts.items()})


def compare(found: dict[str, Estimate]) -> Table:
    """Set what the audit found beside the printed values, and what Table 7's printed Elos give."""
    rows = []
    for row, name, key in ROWS:
        paper, ours = column(ARTIFACT, name)[row], found[key]
        rows.append(
            {
                "agreement of": row,
                "statistic": name,
                "paper": f"{paper:.2f}",
                "Table 7's Elos": from_table7(name),
                "ours": "-" if ours.value is None else f"{ours.value:.3f}",
                "difference": "-" if ours.value is None else f"{ours.value - paper:+.2f}",
                "interval": f"[{ours.low:.2f}, {ours.high:.2f}]" if ours.low is not None else "-",
                "n": f"{ours.n:,}",
            }
        )
    said = [
        "Fleiss' kappa; n: matches that people voted on, and systems. Intervals over 1,000 "
        "resamples of the 80 prompts.",
        "Judge and majority: GPT-4 in the order that people saw, a tie where no outcome has two of "
        "three votes. Systems: Bradley-Terry Elo of both; Table 7's Elos: of its printed human "
        "and GPT-4 columns, with and without GPT-4 itself.",
        *errata(ARTIFACT),
    ]
    title = "Section 5.3: agreement with people, GPT-4 on Vicuna"
    return Table(title=title, frame=pd.DataFrame(rows), notes=said)


def from_table7(name: str) -> str:
    """Return what the printed Elos give, with GPT-4 and without; "-" for a kappa."""
    statistic = STATISTICS.get(name)
    if statistic is None:
        return "-"
    people, judge = column("table7_elo", "human_vicuna"), column("table7_elo", "gpt4_vicuna")
    both = []
    for systems in (list(people), [system for system in people if system != "gpt-4"]):
        sides = (np.array([elo[system] for system in systems]) for elo in (people, judge))
        both.append(f"{statistic(*sides):.2f}")
    return " / ".join(both)
