"""Two data types on the same zero-shot questions: how far apart, and how many would tell more."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.claims.runs import question_scores

POINT, ALPHA, POWER = 0.01, 0.05, 0.8  # the difference in question, and how surely it is to show
METRIC = "acc"  # the paper does not say whether it is normalized by length
Values = NDArray[np.float64]
Scores = Mapping[str, pd.Series]  # task -> a score a question


def scores(path: Path) -> Scores:
    """Return the accuracy of each question, by task; {} where no answers were kept."""
    if not path.exists():
        return {}
    return {task: own for (task, name), own in question_scores(path).items() if name == METRIC}


def differences(first: Scores, second: Scores) -> list[Values]:
    """Return first - second for every shared question, a task at a time."""
    found = []
    for task in sorted(first.keys() & second.keys()):
        both = pd.concat([first[task], second[task]], axis=1, join="inner").dropna()
        if len(both) > 1:
            found.append((both.iloc[:, 0] - both.iloc[:, 1]).to_numpy(np.float64))
    return found


def told(tasks: list[Values]) -> str:
    """Return the mean over tasks in points with its 95% interval, each task weighing the same.

    >>> told([np.array([1.0, 0.0, 0.0, 0.0] * 100), np.array([0.0, -1.0] * 100)])
    '-12.5 [-16.6, -8.4]'
    """
    mean = sum(float(task.mean()) for task in tasks) / len(tasks)
    error = math.sqrt(sum(float(task.var(ddof=1)) / len(task) for task in tasks)) / len(tasks)
    half = float(stats.norm.isf(ALPHA / 2)) * error
    return f"{100 * mean:+.1f} [{100 * (mean - half):+.1f}, {100 * (mean + half):+.1f}]"


def questions_to_tell(tasks: list[Values]) -> float:
    """Return how many questions, the same number a task, show a true difference of one point.

    With a paired t-test at 5% in four of five repetitions, if questions differ between the types as
    often as these do. NaN where no answer differs.
    """
    sd = math.sqrt(sum(float(task.var(ddof=1)) for task in tasks) / len(tasks))
    if sd == 0:
        return math.nan
    return float(TTestPower().solve_power(effect_size=POINT / sd, alpha=ALPHA, power=POWER))
