"""Is one system better than another on the same questions? Paired tests, from stored answers."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from qlora_repro.records import Answer, Paired, Verdict
from qlora_repro.stats.intervals import (
    CONFIDENCE,
    NORMAL_LIMIT,
    Array,
    batch_sizes,
    mean_interval,
    sum_blocks,
)

SIGN_FLIPS = 20_000
MAX_EXACT = 12  # differing questions whose sign flips are counted one by one: 4096 of them


def compare_answers(
    before: Sequence[Answer],
    after: Sequence[Answer],
    *,
    seed: int = 0,
    higher_is_better: bool = True,
    block: int = 1,
) -> Paired:
    """Compare two systems question by question, matched by (task, metric, document hash).

    A document that occurs more than once is matched in order. The verdict needs p < 0.05 and an
    interval that leaves out zero.

    Args:
        before: Answers of the first system.
        after: Answers of the second.
        seed: Of the resamples.
        higher_is_better: False for losses.
        block: Consecutive pairs, in the order of their `doc_id`, that are drawn together, since
            neighbouring tokens of a text are not independent. Above 1 the test is a sign flip of
            the blocks' sums.
    """
    first, second = _by_question(before), _by_question(after)
    shared = [key for key in first if key in second]
    both = [(first[key], second[key]) for key in shared]
    scored = [(old, new) for old, new in both if old is not None and new is not None]
    counts = {
        "n": len(scored),
        "unmatched": len(first) + len(second) - 2 * len(shared),
        "missing": len(shared) - len(scored),
    }
    if not scored:
        unknown: dict[str, Any] = dict.fromkeys(
            ("before", "after", "difference", "low", "high", "p")
        )
        return Paired(**counts, **unknown, test="none", verdict="not resolved")
    x, y = np.array(scored, dtype=np.float64).T.copy()
    low, high = mean_interval(y - x, block=block, seed=seed)
    binary = block == 1 and bool(np.isin([x, y], (0.0, 1.0)).all())
    p = mcnemar_p(x, y) if binary else sign_flip_p(sum_blocks(y - x, block), seed=seed)
    return Paired(
        **counts,
        before=float(x.mean()),
        after=float(y.mean()),
        difference=float((y - x).mean()),
        low=low,
        high=high,
        p=p,
        test="mcnemar" if binary else "sign flip",
        verdict=classify_difference(p, low=low, high=high, higher_is_better=higher_is_better),
    )


def classify_difference(
    p: float, *, low: float, high: float, higher_is_better: bool = True
) -> Verdict:
    """Say in one word what a difference shows, at 5%.

    >>> classify_difference(0.001, low=0.1, high=0.3), classify_difference(0.2, low=-0.1, high=0.3)
    ('better', 'not resolved')
    """
    if p >= 1 - CONFIDENCE or low <= 0 <= high:
        return "not resolved"
    return "better" if (low > 0) == higher_is_better else "worse"


def mcnemar_p(before: Array, after: Array) -> float:
    """Return the exact two-sided p of scores of 0 and 1: a fair coin over the changed answers."""
    gained, lost = int((after > before).sum()), int((after < before).sum())
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


def sign_flip_p(differences: Array, *, seed: int = 0) -> float:
    """Return the two-sided permutation p that paired differences are symmetric around zero.

    All sign patterns are counted when few questions differ; otherwise `SIGN_FLIPS` are drawn, with
    the observed one among them, so that p is never zero. The flips are our own and not those of
    `scipy.stats.permutation_test`: recorded p-values come from this random stream.
    """
    changed = differences[differences != 0]
    n = len(changed)
    if not n:
        return 1.0
    if n >= NORMAL_LIMIT:
        spread = math.sqrt(float(changed @ changed))  # of the sum, over all sign patterns
        return float(2 * stats.norm.sf(abs(changed.sum()) / spread))
    observed = abs(changed.sum()) * (1 - 1e-12)  # equal sums differ in the last bit
    if n <= MAX_EXACT:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((abs((2 * bits - 1) @ changed) >= observed).mean())
    rng = np.random.default_rng(seed)
    as_large = 0
    for rows in batch_sizes(SIGN_FLIPS, n):
        signs = rng.integers(0, 2, (rows, n), dtype=np.int8) * 2 - 1
        as_large += int((abs(signs @ changed) >= observed).sum())
    return (as_large + 1) / (SIGN_FLIPS + 1)


def _by_question(answers: Sequence[Answer]) -> dict[tuple[str, str, str, int], float | None]:
    """Return scores by (task, metric, document hash, occurrence); None for one without a score."""
    occurrences: dict[tuple[str, str, str], int] = defaultdict(int)
    scores: dict[tuple[str, str, str, int], float | None] = {}
    for answer in sorted(answers, key=lambda answer: answer.doc_id):
        key = (answer.task, answer.name, answer.doc_hash)
        finite = answer.value is not None and math.isfinite(answer.value)
        scores[*key, occurrences[key]] = answer.value if finite else None
        occurrences[key] += 1
    return scores
