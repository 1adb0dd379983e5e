"""What is in print for Table 2: the paper's means by type, and a rerun by others, by model."""

from functools import cache
from pathlib import Path

import pandas as pd

PAPER = Path(__file__).parents[1] / "paper" / "table2_perplexity_by_dtype.csv"
RERUN = PAPER.with_name("table2_rerun.csv")  # by others: khalit7/technical_knowledge_base, GitHub
RERUN_BLOCK = 64
NO_ROW = "-"  # there is nothing to compare


def published(dtype: str, dq: bool) -> str:
    """Return the paper's mean perplexity of a type.

    >>> published("nf4", True), published("nf4", False)
    ('27.41', '-')
    """
    paper = _paper()
    same = paper[(paper["dtype"] == dtype) & (paper["dq"] == dq)]
    return f"{float(same['perplexity'].iloc[0]):.2f}" if len(same) else NO_ROW


@cache
def _paper() -> pd.DataFrame:
    return pd.read_csv(PAPER)


@cache
def rerun() -> pd.DataFrame:
    """Return perplexities that others measured, (5 models, types) with (type, DQ) as columns."""
    values = pd.read_csv(RERUN).query("unit == 'perplexity'")
    return values.pivot(index="model", columns=["dtype", "dq"], values="value")


def elsewhere(dtype: str, dq: bool) -> str:
    """Return the mean rise over 16-bit in that rerun, and the least and greatest of its models.

    >>> elsewhere("nf4", False), elsewhere("bf16", False)
    ('+17.8 % (+4.1 to +36.5)', '-')
    """
    whole = ("bf16", False)
    if (dtype, dq) not in rerun() or (dtype, dq) == whole:
        return NO_ROW
    rises = 100 * (rerun()[dtype, dq] / rerun()[whole] - 1)
    return f"{rises.mean():+.1f} % ({rises.min():+.1f} to {rises.max():+.1f})"
