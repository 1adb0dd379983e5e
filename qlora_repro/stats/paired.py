"""Is one system better than another on the same questions? Intervals and paired tests."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from qlora_repro.records import Answer, Paired, Verdict

LEVEL = 0.95
RESAMPLES = 10_000
SIGN_FLIPS = 20_000
CELLS = 2_000_000  # drawn at once, so that long benchmarks do not fill the memory
NORMAL_FROM = 20_000  # from so many pairs on, the normal limit replaces resampling
EXACT_UP_TO = 12  # differing questions whose sign flips are counted one by one: 4096 of them

Vector = NDArray[np.float64]


def paired(
    before: Sequence[Answer],
    after: Sequence[Answer],
    *,
    seed: int = 0,
    higher_is_better: bool = True,
    block: int = 1,
) -> Paired:
    """Compare two systems question by question, matched by (task, metric, document hash).

    The interval is a bootstrap over questions (percentiles, `RESAMPLES` draws from a generator of
    `seed`). A document that occurs more than once is matched in order. The verdict needs
    p < 0.05 and an interval that leaves out zero; losses want `higher_is_better=False`.

    Neighbouring tokens of a text are not independent: with `block` above 1 both the test and the
    interval draw blocks of so many consecutive pairs, in the order of their `doc_id`, instead of
    single ones. Such a test is always a sign flip, of the blocks' sums.
    """
    first, second = _by_question(before), _by_question(after)
    shared = [key for key in first if key in second]
    unmatched = len(first) + len(second) - 2 * len(shared)
    both = [(first[key], second[key]) for key in shared]
    scored = [(old, new) for old, new in both if old is not None and new is not None]
    missing = len(shared) - len(scored)
    if not scored:
        return _nothing(unmatched=unmatched, missing=missing)
    x = np.array([old for old, _ in scored], dtype=np.float64)
    y = np.array([new for _, new in scored], dtype=np.float64)
    low, high = block_interval(y - x, block=block, seed=seed)
    binary = block == 1 and bool(np.isin(np.concatenate([x, y]), (0.0, 1.0)).all())
    p = mcnemar(x, y) if binary else sign_flip(_sums(y - x, block), seed=seed)
    return Paired(
        n=len(scored),
        unmatched=unmatched,
        missing=missing,
        before=float(x.mean()),
        after=float(y.mean()),
        difference=float((y - x).mean()),
        low=low,
        high=high,
        p=p,
        test="mcnemar" if binary else "sign flip",
        verdict=verdict(p, low=low, high=high, higher_is_better=higher_is_better),
    )


def verdict(p: float, *, low: float, high: float, higher_is_better: bool = True) -> Verdict:
    """Say in one word what a difference shows, at 5%.

    >>> verdict(0.001, low=0.1, high=0.3), verdict(0.2, low=-0.1, high=0.3)
    ('better', 'not resolved')
    """
    if p >= 1 - LEVEL or low <= 0 <= high:
        return "not resolved"
    return "better" if (low > 0) == higher_is_better else "worse"


def mcnemar(before: Vector, after: Vector) -> float:
    """Return the exact two-sided p of scores of 0 and 1: a fair coin over the changed answers."""
    gained, lost = int((after > before).sum()), int((after < before).sum())
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


def sign_flip(differences: Vector, *, seed: int = 0) -> float:
    """Return the two-sided permutation p that paired differences are symmetric around zero.

    All sign patterns are counted when few questions differ; otherwise `SIGN_FLIPS` are drawn, with
    the observed one among them, so that p is never zero.
    """
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    if len(changed) >= NORMAL_FROM:
        spread = math.sqrt(float(changed @ changed))  # of the sum, over all sign patterns
        return float(2 * stats.norm.sf(abs(changed.sum()) / spread))
    observed = abs(changed.sum()) * (1 - 1e-12)  # equal sums differ in the last bit
    if len(changed) <= EXACT_UP_TO:
        bits = np.arange(2 ** len(changed))[:, None] >> np.arange(len(changed)) & 1
        return float((abs((2 * bits - 1) @ changed) >= observed).mean())
    rng = np.random.default_rng(seed)
    as_large = 0
    for rows in _blocks(SIGN_FLIPS, len(changed)):
        signs = rng.integers(0, 2, (rows, len(changed)), dtype=np.int8) * 2 - 1
        as_large += int((abs(signs @ changed) >= observed).sum())
    return (as_large + 1) / (SIGN_FLIPS + 1)


def bootstrap_interval(values: Vector, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile interval of a mean over resampled questions."""
    if len(values) >= NORMAL_FROM:
        half = stats.norm.isf((1 - LEVEL) / 2) * values.std(ddof=1) / math.sqrt(len(values))
        return float(values.mean() - half), float(values.mean() + half)
    rng = np.random.default_rng(seed)
    means = [
        values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1)
        for rows in _blocks(RESAMPLES, len(values))
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def block_interval(values: Vector, *, block: int, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile interval of a mean over resampled blocks of consecutive values.

    The blocks do not overlap, and a short last one weighs by its length. Blocks must be longer than
    the dependence between values reaches; blocks of 1 are `bootstrap_interval`.
    """
    if block == 1:
        return bootstrap_interval(values, seed=seed)
    return ratio_interval(_sums(values, block), _sums(np.ones(len(values)), block), seed=seed)


def ratio_interval(sums: Vector, sizes: Vector, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile interval of sum(sums) / sum(sizes) over resampled clusters.

    A cluster is what was drawn as one, as all verdicts on a prompt; every size is above zero.
    """
    rng = np.random.default_rng(seed)
    ratios = []
    for rows in _blocks(RESAMPLES, len(sums)):
        drawn = rng.integers(0, len(sums), (rows, len(sums)))
        ratios.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _sums(values: Vector, block: int) -> Vector:
    """Return the sums of consecutive blocks; the last may hold fewer values."""
    return np.add.reduceat(values, np.arange(0, len(values), block))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a proportion; the whole range without questions.

    >>> low, high = wilson(5, 10)
    >>> round(low, 3), round(high, 3)
    (0.237, 0.763)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def by_task(answers: Sequence[Answer]) -> dict[tuple[str, str], list[Answer]]:
    """Group answers by (task, metric), in the order met: the units that `paired` compares."""
    groups: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.task, answer.name].append(answer)
    return dict(groups)


def _by_question(answers: Sequence[Answer]) -> dict[tuple[str, str, str, int], float | None]:
    seen: dict[tuple[str, str, str], int] = defaultdict(int)
    found: dict[tuple[str, str, str, int], float | None] = {}
    for answer in sorted(answers, key=lambda answer: answer.doc_id):
        key = (answer.task, answer.name, answer.doc_hash)
        value = answer.value
        usable = value is not None and math.isfinite(value)
        found[*key, seen[key]] = value if usable else None
        seen[key] += 1
    return found


def _nothing(*, unmatched: int, missing: int) -> Paired:
    return Paired(
        n=0,
        unmatched=unmatched,
        missing=missing,
        before=None,
        after=None,
        difference=None,
        low=None,
        high=None,
        p=None,
        test="none",
        verdict="not resolved",
    )


def _blocks(total: int, width: int) -> list[int]:
    """Split so many rows of this width into blocks of at most CELLS numbers."""
    rows = max(1, min(total, CELLS // max(1, width)))
    return [rows] * (total // rows) + ([total % rows] if total % rows else [])
