"""Win rates: what verdicts say of one system against another, and the table that shows it.

Intervals are over questions, each with all its verdicts. scipy is imported where one is computed:
the table of a finished cell does without.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from qlora_repro.records import Judgment, MatchVerdict

SWAPPED_VERDICT = {"first": "second", "second": "first", "tie": "tie"}
JUDGE_NOTES = {  # kind of judge -> what it is, so that nobody takes it for another
    "reference": "overlap of words with a right answer, no model: not GPT-4",
    "replay": "verdicts that the paper's authors released, looked up: nothing was asked now",
    "human": "votes of people",
}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of sums with its 95% interval from resampling questions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """One system against one opponent."""

    system: str
    opponent: str
    judges: list[str]
    protocol: str
    benchmark: str
    n_questions: int  # with a verdict that could be read
    n_verdicts: int  # that could be read
    wins: int
    ties: int
    losses: int
    net: Ratio | None  # (wins - losses) / n_verdicts; None: there is no verdict
    relative_score: Ratio | None  # the system's points over the opponent's; None: no points given
    shown_first_wins: int  # verdicts for the answer shown first
    shown_second_wins: int
    swapped_pairs: int  # questions judged in both orders by one judge, both verdicts read
    consistent_pairs: int  # of them, those with one verdict
    unread: dict[str, int]  # why there is no verdict -> matches: "unparsed", "refused"
    unjudged: int  # matches that the judge left out
    unanswered: int  # questions that only one of the two answered
    identical: int  # questions with one answer from both


def compute_win_rate(
    judgments: Sequence[Judgment],
    *,
    names: tuple[str, str],
    n_matches: int,
    unanswered: int,
    identical: int,
) -> WinRate:
    """Count the verdicts on two systems.

    Args:
        judgments: on these two.
        names: of the system and its opponent.
        n_matches: that the judge was given.
        unanswered: questions that only one of the two answered.
        identical: questions with one answer from both.
    """
    system, opponent = names
    read = [judgment for judgment in judgments if judgment.verdict is not None]
    verdicts = Counter(judgment.verdict for judgment in read)
    results = [_result(judgment, system) for judgment in read]
    judged = {(judgment.question, judgment.first, judgment.second) for judgment in judgments}
    pairs = list(_swapped_pairs(read))
    nets = (
        (judgment.question, float(result), 1.0)
        for judgment, result in zip(read, results, strict=True)
    )
    return WinRate(
        system=system,
        opponent=opponent,
        judges=sorted({judgment.judge for judgment in judgments}),
        protocol=judgments[0].protocol if judgments else "",
        benchmark=judgments[0].benchmark if judgments else "",
        n_questions=len({judgment.question for judgment in read}),
        n_verdicts=len(read),
        wins=results.count(1),
        ties=results.count(0),
        losses=results.count(-1),
        net=_estimate_ratio(nets),
        relative_score=_estimate_ratio(
            _points(j, system) for j in read if j.score_first is not None
        ),
        shown_first_wins=verdicts[MatchVerdict.FIRST],
        shown_second_wins=verdicts[MatchVerdict.SECOND],
        swapped_pairs=len(pairs),
        consistent_pairs=sum(one == SWAPPED_VERDICT[other] for one, other in pairs),
        unread=dict(Counter(j.parse for j in judgments if j.verdict is None)),
        unjudged=n_matches - len(judged),
        unanswered=unanswered,
        identical=identical,
    )


def _result(judgment: Judgment, system: str) -> int:
    """Return 1 for a win of the system, -1 for a loss, 0 for a tie."""
    if judgment.verdict == MatchVerdict.TIE:
        return 0
    return 1 if (judgment.verdict == MatchVerdict.FIRST) == (judgment.first == system) else -1


def _points(judgment: Judgment, system: str) -> tuple[str, float, float]:
    """Return (question, the system's points, the opponent's)."""
    first, second = float(judgment.score_first or 0), float(judgment.score_second or 0)
    points = (first, second) if judgment.first == system else (second, first)
    return judgment.question, *points


def _estimate_ratio(parts: Iterable[tuple[str, float, float]]) -> Ratio | None:
    """Return sum over sum of (question, part, total), with its interval over questions."""
    import numpy as np

    from qlora_repro.stats.intervals import ratio_interval

    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for question, part, total in parts:
        sums[question][0] += part
        sums[question][1] += total
    parts_by_question, totals = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2).T
    if not len(totals) or not totals.all():
        return None
    low, high = ratio_interval(parts_by_question, totals)
    return Ratio(value=float(parts_by_question.sum() / totals.sum()), low=low, high=high)


def _swapped_pairs(judgments: Iterable[Judgment]) -> Iterable[tuple[str, str]]:
    """Yield the two verdicts of each judge and question that were given in both orders."""
    by_order: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for judgment in judgments:
        if judgment.verdict is not None:
            by_order[judgment.judge, judgment.question][judgment.first] = judgment.verdict
    for verdicts in by_order.values():
        if len(verdicts) == 2:
            one, other = verdicts.values()
            yield one, other


def build_win_rate_table(rates: Sequence[WinRate], *, kind: str) -> Table:
    """Return a row an opponent: wins, ties and losses of the system, and what to trust them by."""
    judges = ", ".join(sorted({name for rate in rates for name in rate.judges}) or [kind])
    note = f" ({JUDGE_NOTES[kind]})" if kind in JUDGE_NOTES else ""
    table = Table(
        title=f"{rates[0].system}\njudged by {judges}{note}; {rates[0].benchmark}, "
        f"{rates[0].protocol}",
        title_justify="left",
        caption="\n".join(line for rate in rates for line in describe_missing(rate)),
        caption_justify="left",
    )
    table.add_column("against")
    for heading in ("wins", "ties", "losses", "verdicts", "questions"):
        table.add_column(heading, justify="right")
    table.add_column("wins - losses [95% interval]", justify="right")
    has_scores = any(rate.relative_score for rate in rates)
    if has_scores:
        table.add_column("points, % of its [95% interval]", justify="right")
    table.add_column("shown first\nwins / loses", justify="right")
    table.add_column("same verdict\nafter swapping", justify="right")
    for rate in rates:
        counts = (rate.wins, rate.ties, rate.losses, rate.n_verdicts, rate.n_questions)
        scores = [_format_ratio(rate.relative_score, ".1%")] if has_scores else []
        first, second = rate.shown_first_wins, rate.shown_second_wins
        n, pairs = rate.n_verdicts, rate.swapped_pairs
        table.add_row(
            rate.opponent,
            *map(str, counts),
            _format_ratio(rate.net, "+.3f"),
            *scores,
            f"{first / n:.1%} / {second / n:.1%}" if n else "missing",
            f"{rate.consistent_pairs / pairs:.1%} of {pairs}" if pairs else "-",
        )
    return table


def describe_missing(rate: WinRate) -> list[str]:
    """Return what is missing from a win rate, in words; nothing where nothing is."""
    unread = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in sorted(rate.unread.items()))
    lines = {
        f"replies without a verdict: {sum(rate.unread.values())} ({unread})": rate.unread,
        f"matches that this judge left out: {rate.unjudged}": rate.unjudged,
        f"questions that one of the two did not answer: {rate.unanswered}": rate.unanswered,
        f"questions to which both gave the same answer: {rate.identical}": rate.identical,
    }
    return [f"{rate.opponent}: {line}" for line, count in lines.items() if count]


def _format_ratio(ratio: Ratio | None, form: str) -> str:
    if ratio is None:
        return "missing"
    return f"{ratio.value:{form}} [{ratio.low:{form}}, {ratio.high:{form}}]"
