"""Simulated verdicts with a bias that is known, to see whether the audit finds it.

Each verdict has exactly Davidson's probabilities, but those on one prompt are correlated, as real
ones are: a prompt may favour a place, and a system may do well on it. R repeats, Q prompts,
S systems.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.judge_audit.counted_verdicts import OUTCOMES
from analysis.ranking.bradley_terry import FIRST, SECOND, START, TIE, Fit
from qlora_repro.stats.bootstrap import Array
from qlora_repro.store.verdicts import complete


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
        assert abs(np.mean(self.skills) - START) < 1e-9  # or no estimate could be compared
        return Fit(
            skills=np.array(self.skills),
            advantage=np.array(self.advantage),
            ties=np.array(np.log(2 * self.tie_rate / (1 - self.tie_rate))),
        )


def simulate(truth: Truth, *, prompts: int, repeats: int, rng: np.random.Generator) -> Array:
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
    made = np.eye(3)[outcome]
    made[:, :, np.arange(size), np.arange(size)] = 0.0
    return np.asarray(made)


def as_frame(counts: Array, *, benchmark: str) -> pd.DataFrame:
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
    return complete(frame, benchmark)
