"""Speed of the audit: 1,000 resamples of prompts on OA, against a plain pandas loop.

    python -m experiments.bench_audit [--resamples 1000] [--plain 2]

Measured: every section of the audit of GPT-4 on the 953 OA prompts (40,026 rows). The plain loop
draws prompts, puts their rows together and computes three of those figures anew (shares, agreement
after swapping, Bradley-Terry by scipy's optimiser); it is run a few times and scaled.
"""

import argparse
import time

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from analysis.judge_audit.report import audit_judge
from analysis.judge_audit.verdict_counts import OUTCOMES, split_by_judge
from qlora_repro.console import say
from qlora_repro.stats.intervals import Array
from qlora_repro.store.verdicts import load_released_verdicts

TARGET = 30.0  # seconds


def ours(rows: pd.DataFrame, *, resamples: int) -> tuple[float, float]:
    """Return (seconds, Elo advantage) of the whole audit, every section with its intervals."""
    began = time.perf_counter()
    (judged,) = split_by_judge(rows, benchmark="oa", resamples=resamples, seed=0)
    facts = audit_judge(judged)["advantage"].facts
    return time.perf_counter() - began, facts["advantage"]["value"]


def plain(rows: pd.DataFrame, *, resamples: int) -> tuple[float, float]:
    """Return (seconds, mean Elo advantage) of a loop over resamples, three figures each."""
    read = rows[rows["verdict"].notna()]
    by_prompt = dict(list(read.groupby("question")))
    names, rng = list(by_prompt), np.random.default_rng(0)
    began, estimates = time.perf_counter(), []
    for _ in range(resamples):
        chosen = rng.integers(0, len(names), len(names))
        parts = [by_prompt[names[at]].assign(draw=draw) for draw, at in enumerate(chosen)]
        estimates.append(_figures(pd.concat(parts, ignore_index=True)))
    return time.perf_counter() - began, float(np.mean(estimates))


def _figures(rows: pd.DataFrame) -> float:
    rows["verdict"].value_counts(normalize=True)
    turned = rows.rename(columns={"first": "second", "second": "first"})
    keys = ["draw", "first", "second"]
    both = rows.merge(turned[[*keys, "verdict"]], on=keys, suffixes=("", "_back"))
    pd.crosstab(both["verdict"], both["verdict_back"])
    counts = rows.groupby(["first", "second", "verdict"]).size().unstack(fill_value=0)
    return order_in_elo(counts[list(OUTCOMES)])


def order_in_elo(counts: pd.DataFrame) -> float:
    """Return the order's worth in Elo, from verdicts of each ordered pair."""
    first, second = (counts.index.get_level_values(side) for side in ("first", "second"))
    names = sorted(set(first))
    i, j = (np.array([names.index(name) for name in side]) for side in (first, second))
    seen = counts.to_numpy(dtype=np.float64)

    def loss(theta: Array) -> float:
        half = (theta[i] - theta[j] + theta[-2]) / 2
        logits = np.stack([half, -half, np.full(len(half), theta[-1])], axis=1)
        total = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-(seen * (logits - total)).sum() + theta[:-2].mean() ** 2)

    estimates = minimize(loss, np.zeros(len(names) + 2), method="BFGS")
    return float(estimates.x[-2] * 400 / np.log(10))


def main() -> None:
    """Time both, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=2, help="resamples of the plain loop")
    asked = parser.parse_args()
    frame = load_released_verdicts()
    rows = frame[(frame["benchmark"] == "oa") & (frame["judge"] == "gpt-4")]
    seconds, advantage = ours(rows, resamples=asked.resamples)
    slow, known = plain(rows, resamples=asked.plain)
    scaled = slow * asked.resamples / asked.plain
    say(
        f"audit of {len(rows):,} OA rows, {asked.resamples:,} resamples of prompts, all sections: "
        f"{seconds:.1f} s (target: under {TARGET:.0f} s at 1,000); order worth {advantage:.1f} Elo"
    )
    say(
        f"plain pandas loop, three of its figures only: {slow:.1f} s for {asked.plain}, "
        f"{scaled:,.0f} s scaled to {asked.resamples:,}; order worth {known:.1f} Elo"
    )
    say(f"the audit takes 1/{scaled / seconds:.0f} of the plain loop's time")


if __name__ == "__main__":
    main()
