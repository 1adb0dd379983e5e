"""Do raters agree? Kappas, Krippendorff's alpha and rank correlations, with prompts resampled.

A table (N, K) counts, for each of N items, how many raters chose each of K categories; a square one
(K, K) counts items by the choices of two raters. NaN: not defined, as where every rating is alike.
Kappas are statsmodels' and correlations scipy's. Alpha is ours: the `krippendorff` package is under
the GPL, which this project is not.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from qlora_repro.stats.bootstrap import Array, Codes, Estimate, estimate

Statistic = Callable[[Array], float]  # of items (N, ...)


def fleiss(table: Array) -> float:
    """Return Fleiss' kappa of a table (N, K), of which every item has as many ratings.

    Raises ValueError where they differ; alpha has no such need.
    """
    ratings = table.sum(axis=1)
    if len(set(ratings)) > 1:
        raise ValueError(
            f"items have {ratings.min():.0f} to {ratings.max():.0f} ratings, not as many each"
        )
    if not len(table) or (table.sum(axis=0) > 0).sum() < 2:
        return float("nan")
    return float(fleiss_kappa(table))


def alpha(table: Array) -> float:
    """Return Krippendorff's alpha of nominal categories, from a table (N, K).

    Items with one rating pair with nothing and are left out (Krippendorff 2011, section D).

    >>> two_of_three = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> round(alpha(two_of_three), 3)
    0.444
    """
    kept = table[table.sum(axis=1) >= 2]
    ratings = kept.sum(axis=1, keepdims=True)  # (N, 1)
    totals = kept.sum(axis=0)  # (K,)
    n = totals.sum()
    by_chance = n * n - (totals * totals).sum()  # ordered pairs of ratings that differ
    if not by_chance:
        return float("nan")
    seen = (kept * (ratings - kept) / (ratings - 1)).sum()
    return float(1 - (n - 1) * seen / by_chance)


def cohen(square: Array) -> float:
    """Return Cohen's kappa of two raters' choices, from a table (K, K)."""
    if ((square.sum(axis=0) > 0) | (square.sum(axis=1) > 0)).sum() < 2:
        return float("nan")
    return float(cohens_kappa(square, return_results=False))


def kendall(x: Array, y: Array) -> float:
    """Return Kendall's tau-b of two scores of the same things."""
    return float(stats.kendalltau(x, y).statistic) if _vary(x, y) else float("nan")


def spearman(x: Array, y: Array) -> float:
    """Return Spearman's rank correlation of two scores of the same things."""
    return float(stats.spearmanr(x, y).statistic) if _vary(x, y) else float("nan")


def majority(votes: Array, *, otherwise: int) -> Codes:
    """Return the category (N,) that more than half of the votes (N, K) are for, or `otherwise`.

    >>> majority(np.array([[2, 1, 0], [1, 1, 1]]), otherwise=2)
    array([0, 2])
    """
    won = votes.argmax(axis=1)
    return np.where(2 * votes.max(axis=1) > votes.sum(axis=1), won, otherwise)


def crossed(one: Codes, other: Codes, categories: int) -> Array:
    """Return how often two raters' choices (N,) met, (K, K)."""
    made = np.zeros((categories, categories))
    np.add.at(made, (one, other), 1.0)
    return made


def clustered(statistic: Statistic, items: Array, prompts: Codes, weights: Array) -> Estimate:
    """Return a statistic of items (N, ...) with its interval over resampled prompts.

    `prompts` (N,) is the place of each item's prompt in the columns of `weights` (B, Q).
    """
    times = weights[:, prompts].astype(np.intp)  # (B, N)
    draws = np.array([statistic(np.repeat(items, row, axis=0)) for row in times])
    there = len(np.unique(prompts))
    return estimate(statistic(items), draws, prompts=there, n=len(items))


def _vary(x: Array, y: Array) -> bool:
    """Whether a correlation is defined: both sides are known, and neither is constant."""
    return bool(len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0)
