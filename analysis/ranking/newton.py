"""Newton's method on many Davidson likelihoods at once, each times a normal prior.

A match gives the first system a lead h = D theta, linear in all parameters but the last, which is
the log t of ties: P(first) : P(second) : P(tie) = exp(h) : exp(-h) : exp(t).

B likelihoods of one design, M ordered pairs, P parameters.
"""

from dataclasses import dataclass

import numpy as np

from analysis.resampling import Array

LONGEST_STEP = 2.0  # log units, so that no step shoots past a flat likelihood
STEPS, CLOSE = 100, 1e-5  # log units; the error left is of the order of its square


@dataclass(frozen=True)
class Climb:
    """A design and a prior."""

    leads: Array  # (M, P - 1) D, what each parameter adds to the first's lead
    precision: Array  # (P,)
    centre: Array  # (P,)

    def settle(self, counts: Array, theta: Array) -> Array:
        """Climb from theta (B, P) for counts (B, M, 3); NaN where it has not come to rest."""
        theta, moving = theta.copy(), np.arange(len(theta))
        for _ in range(STEPS):
            step = self._step(counts[moving], theta[moving])
            theta[moving] += np.clip(step, -LONGEST_STEP, LONGEST_STEP)
            moving = moving[abs(step).max(axis=1) > CLOSE]
            if not len(moving):
                break
        theta[moving] = np.nan
        return theta

    def _step(self, counts: Array, theta: Array) -> Array:
        cells, width = self.leads.shape  # M, P - 1
        squares = (self.leads[:, :, None] * self.leads[:, None, :]).reshape(cells, -1)
        first, second, tie = chances(theta[:, :-1] @ self.leads.T, theta[:, -1:])  # (B, M)
        n = counts.sum(axis=2)  # (B, M)
        lead = first - second
        slope = np.empty_like(theta)  # (B, P)
        slope[:, :-1] = (counts[:, :, 0] - counts[:, :, 1] - n * lead) @ self.leads
        slope[:, -1] = (counts[:, :, 2] - n * tie).sum(axis=1)
        slope -= self.precision * (theta - self.centre)
        curve = np.empty((len(theta), width + 1, width + 1))  # (B, P, P)
        curve[:, :-1, :-1] = ((n * (first + second - lead**2)) @ squares).reshape(-1, width, width)
        curve[:, -1, :-1] = curve[:, :-1, -1] = -(n * lead * tie) @ self.leads
        curve[:, -1, -1] = (n * tie * (1 - tie)).sum(axis=1)
        curve += np.diag(self.precision)
        return np.asarray(np.linalg.solve(curve, slope[:, :, None])[:, :, 0])


def chances(lead: Array, ties: Array) -> tuple[Array, Array, Array]:
    """Return P(first), P(second) and P(tie), each as the leads, from leads and the log of ties."""
    top = np.maximum(abs(lead), ties)  # so that no exponential overflows
    first, second, tie = np.exp(lead - top), np.exp(-lead - top), np.exp(ties - top)
    total = first + second + tie
    return first / total, second / total, tie / total
