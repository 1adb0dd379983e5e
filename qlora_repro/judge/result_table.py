"""What a comparison comes to, as it is shown.

Standings as a table, with what must be said of the judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


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


WHO = {  # kind of judge -> what it is, so that nobody takes it for another
    "reference": "overlap of words with a right answer, no model: not GPT-4",
    "replay": "verdicts that the paper's authors released, looked up: nothing was asked now",
    "human": "votes of people",
}


def judged_table(standings: Sequence[Standing], *, kind: str) -> Table:
    """Return a row an opponent: wins, ties and losses of the system, and what to trust them by."""
    first = standings[0]
    judges = ", ".join(sorted({name for s in standings for name in s.judges}) or [kind])
    what = f" ({WHO[kind]})" if kind in WHO else ""
    title = f"{first.system}\njudged by {judges}{what}; {first.benchmark}, {first.protocol}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("against")
    for name in ("wins", "ties", "losses", "verdicts", "questions"):
        table.add_column(name, justify="right")
    table.add_column("wins - losses [95% interval]", justify="right")
    scored = any(s.relative for s in standings)
    if scored:
        table.add_column("points, % of its [95% interval]", justify="right")
    table.add_column("shown first\nwins / loses", justify="right")
    table.add_column("same verdict\nafter swapping", justify="right")
    for s in standings:
        points = [_percent(s.relative)] if scored else []
        counts = [str(n) for n in (s.wins, s.ties, s.losses, s.n, s.prompts)]
        table.add_row(s.opponent, *counts, _signed(s.net), *points, _first(s), _same(s))
    table.caption = "\n".join(line for s in standings for line in remarks(s))
    return table


def remarks(s: Standing) -> list[str]:
    """Return what is missing from a standing, in words; nothing where nothing is."""
    unread = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in sorted(s.unread.items()))
    lines = {
        f"replies without a verdict: {sum(s.unread.values())} ({unread})": s.unread,
        f"matches that this judge left out: {s.unjudged}": s.unjudged,
        f"questions that one of the two did not answer: {s.unanswered}": s.unanswered,
        f"questions to which both gave the same answer: {s.identical}": s.identical,
    }
    return [f"{s.opponent}: {line}" for line, count in lines.items() if count]


def _signed(share: Share | None) -> str:
    if share is None:
        return "missing"
    return f"{share.value:+.3f} [{share.low:+.3f}, {share.high:+.3f}]"


def _percent(share: Share | None) -> str:
    if share is None:
        return "missing"
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _first(s: Standing) -> str:
    return f"{s.first / s.n:.1%} / {s.second / s.n:.1%}" if s.n else "missing"


def _same(s: Standing) -> str:
    return f"{s.same / s.swaps:.1%} of {s.swaps}" if s.swaps else "-"
