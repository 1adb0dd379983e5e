"""Do two orders agree? Spearman's correlation against a bound, on Fisher's scale."""

import itertools
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from qlora_repro.stats.estimates import LEVEL, About, Measured

Array = NDArray[np.float64]
EXACT_UP_TO = 8  # pairs: 40,320 orders
TINY = 1e-9
DRAWS = 4000
ALMOST = 1 - 1e-6  # a perfect order has no finite place on Fisher's scale


def spearman(x: Array, y: Array) -> float:
    """Return Spearman's correlation."""
    return float(stats.spearmanr(x, y).statistic)


def spread(rho: float, n: int) -> float:
    """Return the standard error on Fisher's scale (Bonett and Wright 2000, equation 11).

    >>> round(spread(0.0, 28), 3)
    0.2
    """
    return math.sqrt((1 + rho**2 / 2) / (n - 3))


def agreement(rho: float, about: About, *, bound: float, above: bool) -> Measured:
    """Ask whether the correlation of `about.n` pairs is above a bound, or below it."""
    sign = 1 if above else -1
    n = about.n
    place, against = _fisher(rho), _fisher(bound)
    z = sign * (place - against) / spread(bound, n)
    p = (float(stats.norm.sf(z)), float(stats.norm.cdf(z)))
    exact = bound == 0 and n <= EXACT_UP_TO
    if exact:
        orders = all_orders(n)
        p = _share(sign * orders >= sign * rho - TINY), _share(sign * orders <= sign * rho + TINY)
    half = float(stats.norm.isf((1 - LEVEL) / 2)) * spread(rho, n)

    def detect(alpha: float, power: float) -> float | None:
        if exact:
            found = least_correlation(n, alpha, power)
            return None if found is None else sign * found
        z_alpha, z_power = float(stats.norm.isf(alpha)), float(stats.norm.ppf(power))

        def lacking(true: float) -> float:
            moved = sign * (_fisher(true) - against)
            return moved - z_alpha * spread(bound, n) - z_power * spread(true, n)

        if lacking(sign * ALMOST) < 0:
            return None
        return float(optimize.brentq(lacking, bound, sign * ALMOST))

    return Measured(
        about=about,
        test=f"Spearman's correlation {'above' if above else 'below'} {bound:g}, "
        + ("all orders counted" if exact else "Fisher's z"),
        effect=rho,
        low=math.tanh(place - half),
        high=math.tanh(place + half),
        p_for=p[0],
        p_against=p[1],
        bound=bound,
        floor=None,
        detect=detect,
    )


def _fisher(rho: float) -> float:
    return math.atanh(float(np.clip(rho, -ALMOST, ALMOST)))


@cache
def all_orders(n: int) -> Array:
    """Return Spearman's correlation of n ranks with every order of them."""
    orders = np.array(list(itertools.permutations(range(n))), dtype=np.float64)
    squares = ((orders - np.arange(n)) ** 2).sum(axis=1)
    correlations: Array = 1 - 6 * squares / (n * (n**2 - 1))
    return correlations


def _share(marks: NDArray[np.bool_]) -> float:
    return float(marks.mean())


@cache
def least_correlation(n: int, alpha: float, power: float) -> float | None:
    """Return the correlation that counting all orders of n normal pairs finds with this power.

    Fisher's scale is too hopeful for so few: pairs are drawn, the same ones for each correlation.
    """
    orders = np.sort(all_orders(n))
    critical = [rho for rho in np.unique(orders) if _share(orders >= rho - TINY) <= alpha]
    if not critical:
        return None
    x, noise = np.random.default_rng(0).normal(size=(2, DRAWS, n))
    ranks = x.argsort(axis=1).argsort(axis=1)

    def lacking(rho: float) -> float:
        r = 2 * math.sin(math.pi / 6 * rho)  # Pearson's of normal pairs
        y = (r * x + math.sqrt(1 - r**2) * noise).argsort(axis=1).argsort(axis=1)
        seen = 1 - 6 * ((ranks - y) ** 2).sum(axis=1) / (n * (n**2 - 1))
        return _share(seen >= critical[0] - TINY) - power

    return float(optimize.bisect(lacking, 0.0, ALMOST, xtol=1e-4))
