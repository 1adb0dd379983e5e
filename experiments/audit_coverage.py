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
from scipy import stats

from analysis.judge_audit.verdict_counts import OUTCOMES
from analysis.ranking.bradley_terry import FIRST, MEAN_ELO, SECOND, TIE, Fit, Ranking, rank_systems
from analysis.table import Table
from qlora_repro.console import progress, say
from qlora_repro.stats.intervals import (
    Array,
    BootstrapEstimate,
    draw_prompt_weights,
    wilson_interval,
)
from qlora_repro.store.verdicts import complete_columns


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is put in."""

    skills: tuple[float, ...]  # Elo, mean 1000
    advantage: float  # Elo that being shown first is worth
    tie_rate: float  # between equals without an order
    by_place: float  # share of a verdict's latent variance that a prompt's taste for a place has
    by_answer: float  # share that the answers of the prompt have

    def fit(self) -> Fit:
        """Return the parameters as a fit has them."""
        assert abs(np.mean(self.skills) - MEAN_ELO) < 1e-9  # or no estimate could be compared
        return Fit(
            skills=np.array(self.skills),
            advantage=np.array(self.advantage),
            ties=np.array(np.log(2 * self.tie_rate / (1 - self.tie_rate))),
        )


def simulate_verdicts(
    truth: Truth, *, prompts: int, repeats: int, rng: np.random.Generator
) -> Array:
    """Return verdicts on every ordered pair of systems, as counts (R, Q, S, S, 3).

    A standard normal of three parts (the prompt's taste for a place, how the two answers turned
    out, chance) is cut at the quantiles of the verdicts' probabilities: a Gaussian copula, in which
    correlation leaves each verdict's own probabilities as they are.
    """
    size = len(truth.skills)
    place = rng.standard_normal((repeats, prompts, 1, 1))
    quality = rng.standard_normal((repeats, prompts, size))
    chance = rng.standard_normal((repeats, prompts, size, size))
    answers = (quality[:, :, None, :] - quality[:, :, :, None]) / np.sqrt(2)  # second less first
    rest = 1 - truth.by_place - truth.by_answer
    latent = np.sqrt(truth.by_place) * place + np.sqrt(truth.by_answer) * answers
    latent = stats.norm.cdf(latent + np.sqrt(rest) * chance)  # (R, Q, S, S)
    share = truth.fit().probabilities()  # (S, S, 3)
    won, lost = latent < share[..., FIRST], latent >= share[..., FIRST] + share[..., TIE]
    outcome = np.where(won, FIRST, np.where(lost, SECOND, TIE))
    one_hot = np.eye(3)[outcome]
    one_hot[:, :, np.arange(size), np.arange(size)] = 0.0
    return np.asarray(one_hot)


def make_frame(counts: Array, *, benchmark: str) -> pd.DataFrame:
    """Return one repeat's verdicts (Q, S, S, 3) as a frame of verdicts, of a judge "simulated"."""
    question, first, second, outcome = np.nonzero(counts)
    frame = pd.DataFrame(
        {
            "judge": "simulated",
            "benchmark": benchmark,
            "question": [f"q{at:04d}" for at in question],
            "first": [f"system-{at}" for at in first],
            "second": [f"system-{at}" for at in second],
            "verdict": [OUTCOMES[at] for at in outcome],
        }
    )
    return complete_columns(frame, benchmark)


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
    fitted = []
    for _ in range(repeats):
        counts = simulate_verdicts(truth, prompts=prompts, repeats=1, rng=rng)[0]  # (Q, S, S, 3)
        weights = draw_prompt_weights(prompts, resamples=resamples, seed=int(rng.integers(2**31)))
        fitted.append(rank_systems(counts, weights, names))
    return fitted


def coverages(truth: Truth, estimates: list[Ranking]) -> dict[str, Coverage]:
    """Return coverage of the advantage, of the share of ties, and of all skills together."""
    skills = [
        (ranking.skill(name), value)
        for ranking in estimates
        for name, value in zip(ranking.systems, truth.skills, strict=True)
    ]
    return {
        "advantage": _held([(each.advantage(), truth.advantage) for each in estimates]),
        "ties": _held([(each.tie_rate(), truth.tie_rate) for each in estimates]),
        "skills": _held(skills),
    }


def by_verdict(truth: Truth, *, prompts: int, repeats: int, resamples: int, seed: int) -> Coverage:
    """Return coverage of the advantage by intervals that resample verdicts, not prompts."""
    rng = np.random.default_rng(seed)
    names = tuple(f"system-{at}" for at in range(len(truth.skills)))
    estimates = []
    for _ in range(repeats):
        total = simulate_verdicts(truth, prompts=prompts, repeats=1, rng=rng)[0].sum(axis=0)
        single = _one_verdict_each(total)
        weights = draw_prompt_weights(
            len(single), resamples=resamples, seed=int(rng.integers(2**31))
        )
        estimates.append((rank_systems(single, weights, names).advantage(), truth.advantage))
    return _held(estimates)


def _one_verdict_each(total: Array) -> Array:
    """Return counts (S, S, 3) as if each verdict were on a prompt of its own, (N, S, S, 3)."""
    at = np.repeat(np.argwhere(total), total[total > 0].astype(int), axis=0)
    fitted = np.zeros((len(at), *total.shape))
    fitted[np.arange(len(at)), at[:, 0], at[:, 1], at[:, 2]] = 1.0
    return fitted


def _held(pairs: list[tuple[BootstrapEstimate, float]]) -> Coverage:
    within, values = 0, []
    for estimates, truth in pairs:
        if estimates.value is None or estimates.low is None or estimates.high is None:
            raise ValueError(f"a repeat has no interval for {truth}: simulate more prompts")
        within += estimates.low <= truth <= estimates.high
        values.append(estimates.value - truth)
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
            estimates = coverages(truth, rankings(truth, **sizes, seed=int(advantage)))
            few = {**sizes, "repeats": max(1, asked.repeats // 5)}
            estimates["advantage, verdicts resampled"] = by_verdict(
                truth, **few, seed=int(advantage)
            )
        for name, each in estimates.items():
            low, high = wilson_interval(each.held, each.n)
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
    say(Table(title=title, frame=pd.DataFrame(rows)).to_rich())


if __name__ == "__main__":
    main()
