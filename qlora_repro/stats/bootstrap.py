"""Intervals from resampling prompts: verdicts on one prompt share its answers, so they go together.

A resample is a row of weights, how often each prompt was drawn; a statistic that is made of sums
over prompts is then a matrix product. B resamples, Q prompts.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from qlora_repro.stats.paired import wilson

Array = NDArray[np.float64]
Codes = NDArray[np.intp]  # places in a list
Mask = NDArray[np.bool_]
LEVEL = 0.95
FEWEST = 5  # prompts; percentiles of fewer say nothing


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, its 95% interval over resampled prompts, and what it was counted on."""

    value: float | None  # None: nothing to compute it from
    low: float | None  # None: fewer than FEWEST prompts
    high: float | None
    n: int  # judgments, pairs or whatever the statistic counts

    def text(self, *, scale: float = 1.0, digits: int = 1, sign: bool = False) -> str:
        """Return value and interval as a table shows them.

        >>> Estimate(value=0.562, low=0.54, high=0.58, n=9).text(scale=100)
        '56.2 [54.0, 58.0]'
        >>> Estimate(value=None, low=None, high=None, n=0).text()
        '-'
        """
        if self.value is None:
            return "-"
        form = f"{'+' if sign else ''}.{digits}f"
        shown = format(scale * self.value, form)
        if self.low is None or self.high is None:
            return f"{shown} [too few prompts]"
        return f"{shown} [{format(scale * self.low, form)}, {format(scale * self.high, form)}]"

    def facts(self) -> dict[str, float | int | None]:
        """Return the fields, for json."""
        return asdict(self)


def prompt_weights(prompts: int, *, resamples: int, seed: int) -> Array:
    """Return how often each prompt is drawn in each resample: (B, Q), rows that sum to Q."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    return drawn.astype(np.float64)


def tails(prompts: int) -> float:
    """Return the probability to cut off at each end of the resampled distribution.

    Percentiles of a bootstrap are those of a normal whose variance lacks the factor Q / (Q - 1);
    Student's quantile widened by it makes up for few prompts (Hesterberg 2015, section 5.4).

    >>> round(tails(10_000), 4), round(tails(80), 4)
    (0.025, 0.0226)
    """
    t = stats.t.isf((1 - LEVEL) / 2, prompts - 1)
    return float(stats.norm.sf(t * np.sqrt(prompts / (prompts - 1))))


def interval(draws: Array, *, prompts: int) -> tuple[float | None, float | None]:
    """Return the 95% interval of one statistic from its resampled values (B,).

    Resamples in which it could not be computed (NaN) are left out. (None, None) when none is left,
    or when there are fewer than FEWEST prompts.
    """
    known = draws[np.isfinite(draws)]
    if prompts < FEWEST or not len(known):
        return None, None
    tail = tails(prompts)
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def estimate(value: float, draws: Array, *, prompts: int, n: int) -> Estimate:
    """Return a statistic with the interval of its resampled values (B,)."""
    if not np.isfinite(value):
        return Estimate(value=None, low=None, high=None, n=n)
    low, high = interval(draws, prompts=prompts)
    return Estimate(value=float(value), low=low, high=high, n=n)


def divided(top: Array, bottom: Array) -> Array:
    """Return top / bottom, NaN where there is nothing to divide by."""
    known = bottom != 0
    return np.where(known, top / np.where(known, bottom, 1.0), np.nan)


def ratio(top: Array, bottom: Array, weights: Array) -> Estimate:
    """Return sum(top) / sum(bottom), both per prompt (Q,): a mean, or a difference of means.

    Prompts without anything below the line do not count towards the width of the interval.
    """
    value = divided(top.sum(), bottom.sum())
    draws = divided(weights @ top, weights @ bottom)
    counted = int((bottom != 0).sum())
    return estimate(float(value), draws, prompts=counted, n=int(bottom.sum()))


def share(top: Array, bottom: Array, weights: Array) -> Estimate:
    """Return the same for a share, which lies between 0 and 1.

    At 0 or 1 no resample differs; there the interval is Wilson's, of as many trials as prompts.
    """
    found = ratio(top, bottom, weights)
    if found.low is None or found.value not in (0.0, 1.0):
        return found
    prompts = int((bottom != 0).sum())
    low, high = wilson(round(found.value * prompts), prompts)
    return replace(found, low=low, high=high)
