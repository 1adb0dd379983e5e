"""Do raters agree? Kappas, Krippendorff's alpha and rank correlations.

A table (N, K) counts, for each of N items, how many raters chose each of K categories; a square one
(K, K) counts items by the choices of two raters. NaN: not defined, as where every rating is alike.
Kappas are statsmodels' and correlations scipy's. Alpha is ours: the `krippendorff` package is under
the GPL, which this project is not.
"""

import numpy as np
from scipy import stats
from statsmodels.stats import inter_rater

from qlora_repro.stats.intervals import Array, Indices


def fleiss_kappa(table: Array) -> float:
    """Return Fleiss' kappa of a table (N, K).

    Raises:
        ValueError: Items differ in how many ratings they have; alpha has no such need.
    """
    ratings = table.sum(axis=1)
    if len(set(ratings)) > 1:
        raise ValueError(
            f"items have {ratings.min():.0f} to {ratings.max():.0f} ratings, not as many each"
        )
    if not len(table) or (table.sum(axis=0) > 0).sum() < 2:
        return float("nan")
    return float(inter_rater.fleiss_kappa(table))


def krippendorff_alpha(table: Array) -> float:
    """Return Krippendorff's alpha of nominal categories, from a table (N, K).

    Items with one rating pair with nothing and are left out (Krippendorff 2011, section D).

    >>> two_of_three = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> round(krippendorff_alpha(two_of_three), 3)
    0.444
    """
    paired = table[table.sum(axis=1) >= 2]
    ratings = paired.sum(axis=1, keepdims=True)  # (N, 1)
    totals = paired.sum(axis=0)  # (K,)
    n = totals.sum()
    expected = n * n - (totals * totals).sum()  # ordered pairs of ratings that differ by chance
    if not expected:
        return float("nan")
    observed = (paired * (ratings - paired) / (ratings - 1)).sum()
    return float(1 - (n - 1) * observed / expected)


def cohen_kappa(square: Array) -> float:
    """Return Cohen's kappa of two raters' choices, from a table (K, K)."""
    if ((square.sum(axis=0) > 0) | (square.sum(axis=1) > 0)).sum() < 2:
        return float("nan")
    return float(inter_rater.cohens_kappa(square, return_results=False))


def kendall_tau(x: Array, y: Array) -> float:
    """Return Kendall's tau-b of two scores of the same things."""
    return float(stats.kendalltau(x, y).statistic) if _both_vary(x, y) else float("nan")


def spearman_rho(x: Array, y: Array) -> float:
    """Return Spearman's rank correlation of two scores of the same things."""
    return float(stats.spearmanr(x, y).statistic) if _both_vary(x, y) else float("nan")


def majority_category(votes: Array, *, otherwise: int) -> Indices:
    """Return the category (N,) that more than half of the votes (N, K) are for, or `otherwise`.

    >>> majority_category(np.array([[2, 1, 0], [1, 1, 1]]), otherwise=2)
    array([0, 2])
    """
    return np.where(2 * votes.max(axis=1) > votes.sum(axis=1), votes.argmax(axis=1), otherwise)


def contingency_table(one: Indices, other: Indices, categories: int) -> Array:
    """Return how often two raters' choices (N,) met, (K, K)."""
    table = np.zeros((categories, categories))
    np.add.at(table, (one, other), 1.0)
    return table


def _both_vary(x: Array, y: Array) -> bool:
    return bool(len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0)
