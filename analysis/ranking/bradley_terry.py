"""Bradley-Terry by maximum likelihood, with ties and a term for being shown first.

Ties are Davidson's (1970), order is Davidson and Beaver's (1977): with strengths p, order g, ties v

    P(first wins) : P(second wins) : P(tie)  =  p_i sqrt(g) : p_j / sqrt(g) : v sqrt(p_i p_j)

Davidson's and not Rao and Kupper's (1967), because its log is linear in the parameters: the
likelihood has one maximum, the counts of each ordered pair are all it needs, and a tie counts as
half a win for each side, as in Elo. Without ties and order it is logistic regression.

All resamples are fitted at once by Newton's method, which takes a general optimizer one at a time.

B resamples, S systems, M ordered pairs that were judged, P = S + 2 parameters: the logs of p (S),
of g and of v. Elo units are 400 / ln 10 times a natural logarithm; skills average 1000.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

from qlora_repro.stats.intervals import Array, BootstrapEstimate, Mask

ELO_PER_LOG = 400 / math.log(10)  # of one natural-log unit
MEAN_ELO = 1000.0
RIDGE = 1e-4  # precision, in log units: moves no estimate by 0.1 Elo, keeps separated ones finite
MAX_LOG_SKILL = 7.0  # 1,216 Elo, odds of 1,100: past it only the prior holds a parameter
FIRST, SECOND, TIE = range(3)  # the last axis of counts
MAX_STEP = 2.0  # log units, so that no step shoots past a flat likelihood
MAX_STEPS, TOLERANCE = 100, 1e-5  # log units; the error left is of the order of its square


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Parameters of the likelihood's maximum; the leading axes are those of the counts."""

    skills: Array  # (..., S) Elo
    advantage: Array  # (...) Elo that being shown first is worth; NaN where it was not fitted
    ties: Array  # (...) ln v

    def probabilities(self) -> Array:
        """Return P(first, second, tie) of each ordered pair, (..., S, S, 3)."""
        skills = self.skills / ELO_PER_LOG
        order = np.nan_to_num(self.advantage / ELO_PER_LOG)[..., None, None]
        half_margin = (skills[..., :, None] - skills[..., None, :] + order) / 2  # (..., S, S)
        ties = np.asarray(self.ties)[..., None, None]
        return np.stack(outcome_probabilities(half_margin, ties), axis=-1)

    def tie_rate(self) -> Array:
        """Return P(tie) between equal systems of which neither gains by the order, (...)."""
        return np.asarray(1 / (1 + 2 * np.exp(-self.ties)))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A fit, its resamples, and how many prompts those are of."""

    systems: tuple[str, ...]
    fit: Fit  # of the verdicts as they are
    resampled: Fit  # of B resamples
    finite: Mask  # (S,) `find_comparable`, in each resample
    prompts: int
    matches: int

    def skill(self, system: str) -> BootstrapEstimate:
        """Return the Elo of a system, no value for one that has no finite one."""
        at = self.systems.index(system)
        value = self.fit.skills[at] if self.finite[at] else np.nan
        return self._estimate(value, self.resampled.skills[:, at])

    def advantage(self) -> BootstrapEstimate:
        """Return the Elo that being shown first is worth; no value where it has no finite one."""
        finite = abs(self.fit.advantage) <= MAX_LOG_SKILL * ELO_PER_LOG
        value = self.fit.advantage if finite else np.nan
        return self._estimate(value, self.resampled.advantage)

    def tie_rate(self) -> BootstrapEstimate:
        """Return the share of ties between equal systems without an order."""
        return self._estimate(self.fit.tie_rate(), self.resampled.tie_rate())

    def rank(self, system: str) -> BootstrapEstimate:
        """Return the rank of a system, 1 the best."""
        at = self.systems.index(system)
        resampled = rank_skills(self.resampled.skills)[:, at]
        return self._estimate(rank_skills(self.fit.skills)[at], resampled)

    def beats(self, one: str, other: str) -> float:
        """Return the share of resamples in which one system's skill is above another's."""
        i, j = self.systems.index(one), self.systems.index(other)
        return float((self.resampled.skills[:, i] > self.resampled.skills[:, j]).mean())

    def unbounded(self) -> list[str]:
        """Return the systems that have no finite Elo."""
        return [name for name, known in zip(self.systems, self.finite, strict=True) if not known]

    def ordered(self) -> list[str]:
        """Return the systems, the best first."""
        return [self.systems[at] for at in np.argsort(-self.fit.skills, kind="stable")]

    def _estimate(self, value: float | Array, resampled: Array) -> BootstrapEstimate:
        return BootstrapEstimate.from_resamples(
            float(value), resampled, prompts=self.prompts, n=self.matches
        )


def rank_systems(
    counts: Array, weights: Array, systems: tuple[str, ...], *, prior: Fit | None = None
) -> Ranking:
    """Rank systems by verdicts, with intervals over resampled prompts.

    Args:
        counts: Verdicts per prompt, (Q, S, S, 3): shown first, shown second, outcome.
        weights: How often each resample draws a prompt, (B, Q).
        systems: Their names.
        prior: Draws skills to those of another fit, as if they were spread around them with a
            standard deviation of one log unit (174 Elo): few prompts do not tell each skill anew.
    """
    total = counts.sum(axis=0)
    fit = fit_bradley_terry(total, prior=prior)
    sums = (weights @ counts.reshape(len(counts), -1)).reshape(-1, *total.shape)
    resampled = fit_bradley_terry(sums, prior=prior, start=fit)
    finite = _stable_systems(resampled, find_comparable(total))
    return Ranking(
        systems=systems,
        fit=_centre(fit, finite),
        resampled=_centre(resampled, finite),
        finite=finite,
        prompts=int((counts.sum(axis=(1, 2, 3)) > 0).sum()),
        matches=int(total.sum()),
    )


def fit_bradley_terry(counts: Array, *, prior: Fit | None = None, start: Fit | None = None) -> Fit:
    """Fit counts of verdicts; NaN stands for a fit that did not converge.

    Args:
        counts: (..., S, S, 3): shown first, shown second, outcome. The order is fitted only where
            `is_order_identifiable`.
        prior: As in `rank_systems`.
        start: Where Newton's method starts.
    """
    leading, size = counts.shape[:-3], counts.shape[-2]
    flat = counts.reshape(-1, size, size, 3)
    judged = flat.sum(axis=(0, 3)) > 0
    with_order = is_order_identifiable(judged)
    first = np.zeros(size + 2) if start is None else _parameters_of(start)
    first[size] *= with_order
    precision, centre = np.full(size + 2, RIDGE), np.zeros(size + 2)
    if prior is not None:
        precision[:size], centre[:size] = 1.0, _parameters_of(prior)[:size]
    likelihood = Likelihood(_design_matrix(judged, with_order=with_order), precision, centre)
    theta = likelihood.maximize(flat[:, judged], np.tile(first, (len(flat), 1)))  # (B, P)
    skills = theta[:, :size] - theta[:, :size].mean(axis=1, keepdims=True)
    advantage = theta[:, size] if with_order else np.full(len(flat), np.nan)
    return Fit(
        skills=(MEAN_ELO + ELO_PER_LOG * skills).reshape(*leading, size),
        advantage=(ELO_PER_LOG * advantage).reshape(leading),
        ties=theta[:, size + 1].reshape(leading),
    )


@dataclass(frozen=True)
class Likelihood:
    """Many Davidson likelihoods of one design, each times the same normal prior.

    A match gives the first system a lead h = D theta, linear in all parameters but the last, which
    is the log t of ties: P(first) : P(second) : P(tie) = exp(h) : exp(-h) : exp(t).
    """

    design: Array  # (M, P - 1) D, what each parameter adds to the first's lead
    precision: Array  # (P,)
    centre: Array  # (P,)

    def maximize(self, counts: Array, theta: Array) -> Array:
        """Climb from theta (B, P) for counts (B, M, 3); NaN where it has not converged."""
        theta, moving = theta.copy(), np.arange(len(theta))
        for _ in range(MAX_STEPS):
            step = self._newton_step(counts[moving], theta[moving])
            theta[moving] += np.clip(step, -MAX_STEP, MAX_STEP)
            moving = moving[abs(step).max(axis=1) > TOLERANCE]
            if not len(moving):
                break
        theta[moving] = np.nan
        return theta

    def _newton_step(self, counts: Array, theta: Array) -> Array:
        pairs, width = self.design.shape  # M, P - 1
        squares = (self.design[:, :, None] * self.design[:, None, :]).reshape(pairs, -1)
        first, second, tie = outcome_probabilities(theta[:, :-1] @ self.design.T, theta[:, -1:])
        n = counts.sum(axis=2)  # (B, M)
        net = first - second
        gradient = np.empty_like(theta)  # (B, P)
        gradient[:, :-1] = (counts[:, :, 0] - counts[:, :, 1] - n * net) @ self.design
        gradient[:, -1] = (counts[:, :, 2] - n * tie).sum(axis=1)
        gradient -= self.precision * (theta - self.centre)
        hessian = np.empty((len(theta), width + 1, width + 1))  # (B, P, P) of the negative log
        hessian[:, :-1, :-1] = ((n * (first + second - net**2)) @ squares).reshape(-1, width, width)
        hessian[:, -1, :-1] = hessian[:, :-1, -1] = -(n * net * tie) @ self.design
        hessian[:, -1, -1] = (n * tie * (1 - tie)).sum(axis=1)
        hessian += np.diag(self.precision)
        return np.asarray(np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0])


def outcome_probabilities(half_margin: Array, ties: Array) -> tuple[Array, Array, Array]:
    """Return P(first), P(second) and P(tie), each as the leads, from leads and the log of ties."""
    top = np.maximum(abs(half_margin), ties)  # so that no exponential overflows
    first, second, tie = np.exp(half_margin - top), np.exp(-half_margin - top), np.exp(ties - top)
    total = first + second + tie
    return first / total, second / total, tie / total


def find_comparable(counts: Array) -> Mask:
    """Return which systems have a finite maximum beside each other, (S,), from counts (S, S, 3).

    Those are the most that are linked both ways, each to each, by points (Ford 1957): a system
    that never lost a point could be any distance above the others, one that never had one, below.
    """
    points = counts[:, :, FIRST] + counts[:, :, TIE]
    points = points + (counts[:, :, SECOND] + counts[:, :, TIE]).T  # (S, S) of the row's system
    _, component = connected_components(points > 0, connection="strong")
    sizes = np.bincount(component)
    return np.asarray((component == sizes.argmax()) & (sizes.max() > 1))


def is_order_identifiable(judged: Mask) -> bool:
    """Whether the order can be told from skill: only where some pair was judged in both orders.

    Otherwise nothing but the model's own shape tells them apart (skills add up along a chain of
    systems, the order does not). `judged`: (S, S), true where the row's system was shown first.
    """
    return bool((judged & judged.T).any())


def rank_skills(skills: Array) -> Array:
    """Return ranks along the last axis, 1 the best; equals share the better rank.

    >>> rank_skills(np.array([900.0, 1100.0, 1000.0, 900.0]))
    array([3., 1., 2., 3.])
    """
    return np.asarray(rankdata(-skills, method="min", axis=-1), dtype=np.float64)


def _design_matrix(judged: Mask, *, with_order: bool) -> Array:
    """Return what each parameter but that of ties adds to the first's lead, (M, P - 1)."""
    pairs = np.argwhere(judged)
    rows = np.arange(len(pairs))
    design = np.zeros((len(pairs), len(judged) + 1))
    design[rows, pairs[:, 0]], design[rows, pairs[:, 1]] = 0.5, -0.5
    design[:, -1] = 0.5 if with_order else 0.0
    return design


def _parameters_of(fit: Fit) -> Array:
    """Return the parameters (P,) of one fit."""
    skills = (fit.skills - MEAN_ELO) / ELO_PER_LOG
    return np.concatenate([skills, np.nan_to_num([fit.advantage / ELO_PER_LOG]), [float(fit.ties)]])


def _stable_systems(resampled: Fit, finite: Mask) -> Mask:
    """Return which of the finite systems no resample has sent past what data can tell."""
    if not finite.any():
        return finite
    middle = np.median(resampled.skills[:, finite], axis=1, keepdims=True)
    distance = abs(resampled.skills - middle)
    return np.asarray(finite & (distance < MAX_LOG_SKILL * ELO_PER_LOG).all(axis=0))


def _centre(fit: Fit, finite: Mask) -> Fit:
    """Return a fit in which the finite systems (S,) average MEAN_ELO."""
    if not finite.any():
        return fit
    mean = fit.skills[..., finite].mean(axis=-1, keepdims=True)
    return replace(fit, skills=fit.skills - mean + MEAN_ELO)
