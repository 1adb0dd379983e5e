"""95% confidence intervals of proportions, of means, and of any statistic of resampled prompts.

What is drawn as one is resampled as one: a question, a block of neighbouring tokens, or a prompt
with all verdicts on its answers. B resamples, Q prompts, N items.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]
Interval = tuple[float, float]
CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
RESAMPLES = 10_000
STDERR_RESAMPLES = 200
MAX_VALUES = 2_000_000  # drawn at once, so that long benchmarks do not fill the memory
NORMAL_LIMIT = 20_000  # from so many values on, the normal limit replaces resampling
MIN_PROMPTS = 5  # percentiles of fewer say nothing


def wilson_interval(successes: int, n: int) -> Interval:
    """Return the Wilson score interval of a proportion; (0, 1) without trials.

    Raises:
        ValueError: There are more successes than trials.

    >>> low, high = wilson_interval(5, 10)
    >>> round(low, 3), round(high, 3)
    (0.237, 0.763)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def normal_interval(mean: float, stderr: float) -> Interval:
    """Return the interval of a mean whose standard error is known."""
    half = float(stats.norm.isf(TAILS[0])) * stderr
    return mean - half, mean + half


def mean_interval(values: Array, *, block: int = 1, seed: int = 0) -> Interval:
    """Return the percentile interval of a mean over resampled values, (N,).

    Args:
        values: One number a question, or a token.
        block: Consecutive values that are drawn together, longer than the dependence between
            values reaches. Blocks do not overlap, and a short last one weighs by its length.
        seed: Of the resamples.
    """
    if block == 1 and len(values) >= NORMAL_LIMIT:
        return normal_interval(float(values.mean()), float(stats.sem(values)))
    return ratio_interval(
        sum_blocks(values, block), sum_blocks(np.ones(len(values)), block), seed=seed
    )


def ratio_interval(sums: Array, sizes: Array, *, seed: int = 0) -> Interval:
    """Return the percentile interval of sum(sums) / sum(sizes) over resampled clusters.

    A cluster is what was drawn as one, as all verdicts on a prompt; every size is above zero.

    The resampling is our own and not `scipy.stats.bootstrap`: published intervals come from this
    random stream.
    """
    n, rng = len(sums), np.random.default_rng(seed)
    ratios = []
    for rows in batch_sizes(RESAMPLES, n):
        drawn = rng.integers(0, n, (rows, n))
        total = n * sizes[0] if (sizes == sizes[0]).all() else sizes[drawn].sum(axis=1)
        ratios.append(sums[drawn].sum(axis=1) / total)
    low, high = np.quantile(np.concatenate(ratios), TAILS)
    return float(low), float(high)


def bootstrap_stderr(
    statistic: Callable[[Sequence[Any]], float | None], values: Sequence[Any]
) -> float | None:
    """Return the bootstrap standard error of a statistic that is not a mean, such as F1.

    None where the statistic is defined in fewer than two resamples.
    """
    if len(values) < 2:
        return None
    rng = random.Random(0)
    drawn = [statistic(rng.choices(values, k=len(values))) for _ in range(STDERR_RESAMPLES)]
    defined = [value for value in drawn if value is not None and math.isfinite(value)]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else None


def sum_blocks(values: Array, block: int) -> Array:
    """Return the sums of blocks of consecutive values; the last block may be shorter."""
    return np.add.reduceat(values, np.arange(0, len(values), block))


def batch_sizes(rows: int, width: int) -> Iterator[int]:
    """Split so many rows of this width into batches of at most MAX_VALUES numbers."""
    size = max(1, min(rows, MAX_VALUES // max(1, width)))
    for start in range(0, rows, size):
        yield min(size, rows - start)


@dataclass(frozen=True, kw_only=True)
class BootstrapEstimate:
    """A statistic, its interval over resampled prompts, and what it was counted on."""

    value: float | None  # None: nothing to compute it from
    low: float | None  # None: fewer than MIN_PROMPTS prompts
    high: float | None
    n: int  # judgments, pairs or whatever the statistic counts

    @classmethod
    def from_resamples(
        cls, value: float, resampled: Array, *, prompts: int, n: int
    ) -> "BootstrapEstimate":
        """Add the interval of its resampled values (B,) to a statistic.

        Percentiles of a bootstrap are those of a normal whose variance lacks the factor
        Q / (Q - 1); Student's quantile widened by it makes up for few prompts (Hesterberg 2015,
        section 5.4). Resamples in which the statistic is not defined (NaN) are left out.
        """
        defined = resampled[np.isfinite(resampled)]
        low = high = None
        if not np.isfinite(value):
            return cls(value=None, low=None, high=None, n=n)
        if prompts >= MIN_PROMPTS and len(defined):
            tail = tail_probability(prompts)
            low, high = map(float, np.quantile(defined, [tail, 1 - tail]))
        return cls(value=float(value), low=low, high=high, n=n)

    def format(self, *, scale: float = 1.0, digits: int = 1, sign: bool = False) -> str:
        """Return value and interval as a table shows them.

        >>> BootstrapEstimate(value=0.562, low=0.54, high=0.58, n=9).format(scale=100)
        '56.2 [54.0, 58.0]'
        >>> BootstrapEstimate(value=None, low=None, high=None, n=0).format()
        '-'
        """
        if self.value is None:
            return "-"
        spec = f"{'+' if sign else ''}.{digits}f"
        if self.low is None or self.high is None:
            return f"{scale * self.value:{spec}} [too few prompts]"
        low, high = scale * self.low, scale * self.high
        return f"{scale * self.value:{spec}} [{low:{spec}}, {high:{spec}}]"

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields, for json."""
        return asdict(self)


def tail_probability(prompts: int) -> float:
    """Return the probability to cut off at each end of a statistic's resampled distribution.

    >>> round(tail_probability(10_000), 4), round(tail_probability(80), 4)
    (0.025, 0.0226)
    """
    t = stats.t.isf(TAILS[0], prompts - 1)
    return float(stats.norm.sf(t * np.sqrt(prompts / (prompts - 1))))


def draw_prompt_weights(prompts: int, *, resamples: int, seed: int) -> Array:
    """Return how often each prompt is drawn in each resample: (B, Q), rows that sum to Q.

    A statistic made of sums over prompts is then a matrix product.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    return drawn.astype(np.float64)


def bootstrap_prompts(
    statistic: Callable[[Array], float], items: Array, prompts: Indices, weights: Array
) -> BootstrapEstimate:
    """Return a statistic of items (N, ...) with its interval over resampled prompts.

    Args:
        statistic: A function of items.
        items: What it is computed from.
        prompts: The prompt of each item, a column of `weights`, (N,).
        weights: How often each resample draws a prompt, (B, Q).
    """
    repeats = weights[:, prompts].astype(np.intp)  # (B, N)
    resampled = np.array([statistic(np.repeat(items, row, axis=0)) for row in repeats])
    return BootstrapEstimate.from_resamples(
        statistic(items), resampled, prompts=len(np.unique(prompts)), n=len(items)
    )


def divide_or_nan(top: Array, bottom: Array) -> Array:
    """Return top / bottom, NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom != 0, np.divide(top, bottom), np.nan))


def estimate_ratio(top: Array, bottom: Array, weights: Array) -> BootstrapEstimate:
    """Return sum(top) / sum(bottom), both per prompt (Q,): a mean, or a difference of means.

    Prompts without anything below the line do not count towards the width of the interval.
    """
    return BootstrapEstimate.from_resamples(
        float(divide_or_nan(top.sum(), bottom.sum())),
        divide_or_nan(weights @ top, weights @ bottom),
        prompts=int((bottom != 0).sum()),
        n=int(bottom.sum()),
    )


def estimate_share(top: Array, bottom: Array, weights: Array) -> BootstrapEstimate:
    """Return the same for a share, which is between 0 and 1.

    At 0 or 1 no resample differs; there the interval is Wilson's, of as many trials as prompts.
    """
    ratio = estimate_ratio(top, bottom, weights)
    if ratio.low is None or ratio.value not in (0.0, 1.0):
        return ratio
    prompts = int((bottom != 0).sum())
    low, high = wilson_interval(round(ratio.value * prompts), prompts)
    return replace(ratio, low=low, high=high)
