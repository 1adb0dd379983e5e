"""Does the audit find a bias that was put in? How often its intervals hold the truth.

    python -m experiments.audit_coverage [--repeats 500] [--resamples 1000] [--prompts 80]

Verdicts are simulated with a first-position advantage of 0, 50 and 120 Elo, known ties and skills,
and prompts whose verdicts go together. Beside the intervals over resampled prompts stand those over
resampled verdicts, which take each verdict for a draw of its own.
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.judge_audit.simulate import Truth, simulate
from analysis.ranking.bradley_terry import Ranking, rank_systems
from analysis.table import Table
from qlora_repro.console import progress, say
from qlora_repro.stats.bootstrap import Array, Estimate, prompt_weights
from qlora_repro.stats.paired import wilson

ADVANTAGES = (0.0, 50.0, 120.0)  # Elo
TRUTH = Truth(
    skills=(1180.0, 1030.0, 990.0, 970.0, 930.0, 900.0),
    advantage=0.0,
    tie_rate=0.17,
    by_place=0.10,
    by_answer=0.30,
)


@dataclass(frozen=True)
class Coverage:
    """How many intervals held the truth."""

    held: int
    n: int
    mean: float  # of the estimates

    def share(self) -> float:
        """Return the share that held it."""
        return self.held / self.n


def rankings(
    truth: Truth, *, prompts: int, repeats: int, resamples: int, seed: int
) -> list[Ranking]:
    """Return what the audit makes of each of so many simulated judges."""
    rng = np.random.default_rng(seed)
    names = tuple(f"system-{at}" for at in range(len(truth.skills)))
    made = []
    for _ in range(repeats):
        counts = simulate(truth, prompts=prompts, repeats=1, rng=rng)[0]  # (Q, S, S, 3)
        weights = prompt_weights(prompts, resamples=resamples, seed=int(rng.integers(2**31)))
        made.append(rank_systems(counts, weights, names))
    return made


def coverages(truth: Truth, found: list[Ranking]) -> dict[str, Coverage]:
    """Return coverage of the advantage, of the share of ties, and of all skills together."""
    skills = [
        (ranking.skill(name), value)
        for ranking in found
        for name, value in zip(ranking.systems, truth.skills, strict=True)
    ]
    return {
        "advantage": _held([(each.advantage(), truth.advantage) for each in found]),
        "ties": _held([(each.tie_rate(), truth.tie_rate) for each in found]),
        "skills": _held(skills),
    }


def by_verdict(truth: Truth, *, prompts: int, repeats: int, resamples: int, seed: int) -> Coverage:
    """Return coverage of the advantage by intervals that resample verdicts, not prompts."""
    rng = np.random.default_rng(seed)
    names = tuple(f"system-{at}" for at in range(len(truth.skills)))
    found = []
    for _ in range(repeats):
        total = simulate(truth, prompts=prompts, repeats=1, rng=rng)[0].sum(axis=0)
        single = _one_verdict_each(total)
        weights = prompt_weights(len(single), resamples=resamples, seed=int(rng.integers(2**31)))
        found.append((rank_systems(single, weights, names).advantage(), truth.advantage))
    return _held(found)


def _one_verdict_each(total: Array) -> Array:
    """Return counts (S, S, 3) as if each verdict were on a prompt of its own, (N, S, S, 3)."""
    at = np.repeat(np.argwhere(total), total[total > 0].astype(int), axis=0)
    made = np.zeros((len(at), *total.shape))
    made[np.arange(len(at)), at[:, 0], at[:, 1], at[:, 2]] = 1.0
    return made


def _held(pairs: list[tuple[Estimate, float]]) -> Coverage:
    within, values = 0, []
    for found, truth in pairs:
        if found.value is None or found.low is None or found.high is None:
            raise ValueError(f"a repeat has no interval for {truth}: simulate more prompts")
        within += found.low <= truth <= found.high
        values.append(found.value - truth)
    return Coverage(within, len(pairs), float(np.mean(values)))


def main() -> None:
    """Simulate, and print coverage beside its own interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=80)
    asked = parser.parse_args()
    sizes = {name: getattr(asked, name) for name in ("prompts", "repeats", "resamples")}
    rows = []
    for advantage in ADVANTAGES:
        truth = replace(TRUTH, advantage=advantage)
        with progress(f"advantage {advantage:.0f} Elo, {asked.repeats} repeats"):
            found = coverages(truth, rankings(truth, **sizes, seed=int(advantage)))
            few = {**sizes, "repeats": max(1, asked.repeats // 5)}
            found["advantage, verdicts resampled"] = by_verdict(truth, **few, seed=int(advantage))
        for name, each in found.items():
            low, high = wilson(each.held, each.n)
            rows.append(
                {
                    "advantage put in, Elo": f"{advantage:.0f}",
                    "interval of": name,
                    "n": f"{each.n:,}",
                    "holds the truth, % [95%]": f"{100 * each.share():.1f} "
                    f"[{100 * low:.1f}, {100 * high:.1f}]",
                    "mean error": f"{each.mean:+.4f}" if name == "ties" else f"{each.mean:+.2f}",
                }
            )
    title = f"Coverage of 95% intervals, simulated: {asked.prompts} prompts, 6 systems"
    say(Table(title=title, frame=pd.DataFrame(rows)).rich())


if __name__ == "__main__":
    main()
