"""What a comparison comes to, as it is shown."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Share:
    """A figure with its 95% interval from resampling questions, each with all its verdicts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One system against one opponent."""

    system: str
    opponent: str
    judges: list[str]
    protocol: str
    benchmark: str
    prompts: int  # questions with a verdict that could be read
    n: int  # such verdicts
    wins: int
    ties: int
    losses: int
    net: Share | None  # (wins - losses) / n; None: there is no verdict
    relative: Share | None  # the system's points over the opponent's; None: no points are given
    first: int  # verdicts for the answer shown first
    second: int
    swaps: int  # questions judged in both orders by one judge, both verdicts read
    same: int  # of them, those with one verdict
    unread: dict[str, int]  # why there is no verdict -> matches: "unparsed", "refused"
    unjudged: int  # matches that the judge left out
    unanswered: int  # questions that only one of the two answered
    identical: int  # questions with one answer from both
