"""Newton's method on many Davidson likelihoods at once, each times a normal prior.

A match gives the first system a lead h = D theta, linear in all parameters but the last, which is
the log t of ties: P(first) : P(second) : P(tie) = exp(h) : exp(-h) : exp(t).

B likelihoods of one design, M ordered pairs, P parameters.

Bradley-Terry by maximum likelihood, with ties and a term for being shown first.

Ties are Davidson's (1970), order is Davidson and Beaver's (1977): with strengths p, order g, ties v

    P(first wins) : P(second wins) : P(tie)  =  p_i sqrt(g) : p_j / sqrt(g) : v sqrt(p_i p_j)

Davidson's and not Rao and Kupper's (1967), because its log is linear in the parameters: the
likelihood has one maximum, the counts of each ordered pair are all it needs, and a tie counts as
half a win for each side, as in Elo. Without ties and order it is logistic regression.

B resamples, S systems, M ordered pairs that were judged, P = S + 2 parameters: the logs of p (S),
of g and of v. Elo units are 400 / ln 10 times a natural logarithm; skills average 1000.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

from qlora_repro.stats.bootstrap import Array, Estimate, Mask, estimate

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


ELO = 400 / math.log(10)  # of one natural-log unit
START = 1000.0
PRIOR = 1e-4  # precision, in log units: moves no estimate by 0.1 Elo, keeps separated ones finite
RUNAWAY = 7.0  # log units (1,216 Elo, odds of 1,100) past which only the prior holds a parameter
FIRST, SECOND, TIE = range(3)  # the last axis of counts


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Parameters of the likelihood's maximum; the leading axes are those of the counts."""

    skills: Array  # (..., S) Elo
    advantage: Array  # (...) Elo that being shown first is worth; NaN where it was not fitted
    ties: Array  # (...) ln v

    def probabilities(self) -> Array:
        """Return P(first, second, tie) of each ordered pair, (..., S, S, 3)."""
        skills = self.skills / ELO
        order = np.nan_to_num(self.advantage / ELO)[..., None, None]
        lead = (skills[..., :, None] - skills[..., None, :] + order) / 2  # (..., S, S)
        return np.stack(chances(lead, np.asarray(self.ties)[..., None, None]), axis=-1)

    def tie_rate(self) -> Array:
        """Return P(tie) between equal systems of which neither gains by its place, (...)."""
        return np.asarray(1 / (1 + 2 * np.exp(-self.ties)))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A fit, what resampling prompts makes of it, and how many prompts those were."""

    systems: tuple[str, ...]
    fit: Fit  # of the verdicts as they are
    draws: Fit  # of B resamples
    finite: Mask  # (S,) `comparable`, in each resample
    prompts: int
    matches: int

    def skill(self, system: str) -> Estimate:
        """Return the Elo of a system, no value for one that has no finite one."""
        at = self.systems.index(system)
        if not self.finite[at]:
            return Estimate(value=None, low=None, high=None, n=self.matches)
        return self._estimate(self.fit.skills[at], self.draws.skills[:, at])

    def advantage(self) -> Estimate:
        """Return the Elo that being shown first is worth; no value where it has no finite one."""
        if abs(self.fit.advantage) > RUNAWAY * ELO:
            return Estimate(value=None, low=None, high=None, n=self.matches)
        return self._estimate(self.fit.advantage, self.draws.advantage)

    def tie_rate(self) -> Estimate:
        """Return the share of ties between equal systems without an order."""
        return self._estimate(self.fit.tie_rate(), self.draws.tie_rate())

    def rank(self, system: str) -> Estimate:
        """Return the rank of a system, 1 the best."""
        at = self.systems.index(system)
        return self._estimate(ranks(self.fit.skills)[at], ranks(self.draws.skills)[:, at])

    def beats(self, one: str, other: str) -> float:
        """Return the share of resamples in which one system's skill is above another's."""
        i, j = self.systems.index(one), self.systems.index(other)
        return float((self.draws.skills[:, i] > self.draws.skills[:, j]).mean())

    def unbounded(self) -> list[str]:
        """Return the systems that have no finite Elo."""
        return [name for name, known in zip(self.systems, self.finite, strict=True) if not known]

    def ordered(self) -> list[str]:
        """Return the systems, the best first."""
        return [self.systems[at] for at in np.argsort(-self.fit.skills, kind="stable")]

    def _estimate(self, value: Array, draws: Array) -> Estimate:
        return estimate(float(value), draws, prompts=self.prompts, n=self.matches)


def rank_systems(
    counts: Array, weights: Array, systems: tuple[str, ...], *, towards: Fit | None = None
) -> Ranking:
    """Rank systems from verdicts per prompt (Q, S, S, 3) and resamples of the prompts (B, Q).

    `towards` draws skills to those of another fit, as if they were spread around them with a
    standard deviation of one log unit (174 Elo): few prompts do not tell each skill anew.
    """
    total = counts.sum(axis=0)
    fit = maximum_likelihood(total, towards=towards)
    resampled = (weights @ counts.reshape(len(counts), -1)).reshape(-1, *total.shape)
    draws = maximum_likelihood(resampled, towards=towards, start=fit)
    finite = _settled(draws, comparable(total))
    return Ranking(
        systems=systems,
        fit=_centred(fit, finite),
        draws=_centred(draws, finite),
        finite=finite,
        prompts=int((counts.sum(axis=(1, 2, 3)) > 0).sum()),
        matches=int(total.sum()),
    )


def maximum_likelihood(
    counts: Array, *, towards: Fit | None = None, start: Fit | None = None
) -> Fit:
    """Fit counts of verdicts, (..., S, S, 3): shown first, shown second, verdict.

    `towards` as in `rank_systems`; `start` is where Newton's method sets out from. The order is
    fitted only where `order_shows`; NaN stands for a fit that did not settle.
    """
    lead, size = counts.shape[:-3], counts.shape[-2]
    flat = counts.reshape(-1, size, size, 3)
    judged = flat.sum(axis=(0, 3)) > 0
    with_order = order_shows(judged)
    first = np.zeros(size + 2) if start is None else _parameters(start)
    first[size] *= with_order
    precision, centre = np.full(size + 2, PRIOR), np.zeros(size + 2)
    if towards is not None:
        precision[:size], centre[:size] = 1.0, _parameters(towards)[:size]
    climb = Climb(_leads(judged, with_order=with_order), precision, centre)
    theta = climb.settle(flat[:, judged], np.tile(first, (len(flat), 1)))  # (B, P)
    skills = theta[:, :size] - theta[:, :size].mean(axis=1, keepdims=True)
    advantage = theta[:, size] if with_order else np.full(len(flat), np.nan)
    return Fit(
        skills=(START + ELO * skills).reshape(*lead, size),
        advantage=(ELO * advantage).reshape(lead),
        ties=theta[:, size + 1].reshape(lead),
    )


def comparable(counts: Array) -> Mask:
    """Return which systems have a finite maximum beside each other, (S,), from counts (S, S, 3).

    Those are the most that are linked both ways, each to each, by points (Ford 1957): a system
    that never lost a point could be any distance above the others, one that never had one, below.
    """
    points = counts[:, :, FIRST] + counts[:, :, TIE]
    points = points + (counts[:, :, SECOND] + counts[:, :, TIE]).T  # (S, S) of the row's system
    _, part = connected_components(points > 0, connection="strong")
    sizes = np.bincount(part)
    return np.asarray((part == sizes.argmax()) & (sizes.max() > 1))


def order_shows(judged: Mask) -> bool:
    """Whether the order can be told from skill: only where some pair was judged in both orders.

    Otherwise nothing but the model's own shape tells them apart (skills add up along a chain of
    systems, the order does not). `judged`: (S, S), true where the row's system was shown first.
    """
    return bool((judged & judged.T).any())


def ranks(skills: Array) -> Array:
    """Return ranks along the last axis, 1 the best; equals share the better rank.

    >>> ranks(np.array([900.0, 1100.0, 1000.0, 900.0]))
    array([3., 1., 2., 3.])
    """
    return np.asarray(rankdata(-skills, method="min", axis=-1), dtype=np.float64)


def _leads(judged: Mask, *, with_order: bool) -> Array:
    """Return what each parameter but that of ties adds to the first's lead, (M, P - 1)."""
    pairs = np.argwhere(judged)
    rows = np.arange(len(pairs))
    leads = np.zeros((len(pairs), len(judged) + 1))
    leads[rows, pairs[:, 0]], leads[rows, pairs[:, 1]] = 0.5, -0.5
    leads[:, -1] = 0.5 if with_order else 0.0
    return leads


def _parameters(fit: Fit) -> Array:
    """Return the parameters (P,) of one fit."""
    skills = (fit.skills - START) / ELO
    return np.concatenate([skills, np.nan_to_num([fit.advantage / ELO]), [float(fit.ties)]])


def _settled(draws: Fit, finite: Mask) -> Mask:
    """Return which of the finite systems no resample has sent past what data can tell."""
    if not finite.any():
        return finite
    middle = np.median(draws.skills[:, finite], axis=1, keepdims=True)
    return np.asarray(finite & (abs(draws.skills - middle) < RUNAWAY * ELO).all(axis=0))


def _centred(fit: Fit, finite: Mask) -> Fit:
    """Return a fit in which the finite systems (S,) average START."""
    if not finite.any():
        return fit
    mean = fit.skills[..., finite].mean(axis=-1, keepdims=True)
    return Fit(skills=fit.skills - mean + START, advantage=fit.advantage, ties=fit.ties)
