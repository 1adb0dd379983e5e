"""What came out of judging: how much could be read, which way the rest leans, who replied, cost."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from qlora_repro.judge.client.prices import Price, cost_of, usage
from qlora_repro.records import Judgment

SIDES = ("first", "second", "tie")
SHOWN = 4  # of more servers' names than these, the rest is counted


@dataclass(frozen=True, kw_only=True)
class Leaning:
    """Replies that the strict reader could not read, against those that it could.

    Failures that lean to one side make a ranking that leaves them out lean to the other.
    """

    n: int
    read: dict[str, int]  # strictly: verdicts by side
    recovered: dict[str, int]  # by the lenient reader only
    unread: dict[str, int]  # by neither: unparsed, refused, api_error
    p: float | None  # Fisher's exact test: first or second, read or recovered; None: too few

    @property
    def failed(self) -> int:
        """How many the strict reader could not read."""
        return self.n - sum(self.read.values())

    @property
    def text(self) -> str:
        """The leaning in a sentence."""
        if not self.failed:
            return f"all {self.n} replies could be read"
        left = ", ".join(f"{count} {why}" for why, count in sorted(self.unread.items()))
        said = f"{self.failed} of {self.n} replies could not be read strictly"
        if sum(self.recovered.values()):
            said += (
                f": leniently {_sides(self.recovered)} (of those read strictly {_sides(self.read)}"
                + ("" if self.p is None else f"; the two differ with p {_p(self.p)}")
                + ")"
            )
        return said + (f"; no verdict: {left}" if left else "")


def leaning(judgments: Iterable[Judgment]) -> Leaning:
    """Return in which direction the replies lean that the strict reader could not read."""
    read: Counter[str] = Counter()
    recovered: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for judgment in judgments:
        if judgment.verdict is not None:
            read[judgment.verdict] += 1
        elif judgment.verdict_lenient is not None:
            recovered[judgment.verdict_lenient] += 1
        else:
            unread[judgment.parse] += 1
    table = [[found[side] for side in SIDES[:2]] for found in (read, recovered)]
    testable = all(sum(row) for row in table)
    return Leaning(
        n=read.total() + recovered.total() + unread.total(),
        read={side: read[side] for side in SIDES},
        recovered={side: recovered[side] for side in SIDES},
        unread=dict(unread),
        p=float(fisher_exact(np.array(table)).pvalue) if testable else None,
    )


@dataclass(frozen=True, kw_only=True)
class Money:
    """What the replies took."""

    replies: int
    input_tokens: int
    output_tokens: int
    unreported: int  # replies without usage
    cut: int  # replies that ended at the limit of their length
    cost: float | None  # USD; None: the price is not known

    @classmethod
    def of(cls, replies: Sequence[dict[str, Any]], price: Price | None) -> "Money":
        """Add the usage of stored replies up."""
        used = [found for reply in replies if (found := usage(reply)) is not None]
        return cls(
            replies=len(replies),
            input_tokens=sum(tokens for tokens, _ in used),
            output_tokens=sum(tokens for _, tokens in used),
            unreported=len(replies) - len(used),
            cut=sum(_ended(reply) == "length" for reply in replies),
            cost=None if price is None else sum(cost_of(reply, price) for reply in replies),
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One judge's run."""

    leaning: Leaning
    models: dict[str, int]  # verdicts by model name and fingerprint, as the server gave them
    money: Money

    @property
    def changed(self) -> bool:
        """Whether more than one model, or version of it, replied."""
        return len(self.models) > 1

    @property
    def lines(self) -> list[str]:
        """The summary as it is shown."""
        money = self.money
        cost = "" if money.cost is None else f", ${money.cost:.4f}"
        said = [
            self.leaning.text,
            f"{money.replies} replies: {money.input_tokens:,} tokens in, "
            f"{money.output_tokens:,} out{cost}"
            + (f"; {money.unreported} report no usage" if money.unreported else ""),
        ]
        if money.cut:
            said.append(f"note: {money.cut} replies were cut off at the limit of their length")
        if self.changed:
            shown = sorted(self.models.items(), key=lambda item: -item[1])
            names = ", ".join(f"{name} ({count})" for name, count in shown[:SHOWN])
            more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
            said.append(f"note: the model changed within this run: {names}{more}")
        elif self.models:
            said.append(f"the server calls the model {next(iter(self.models))}")
        return said

    @property
    def json(self) -> str:
        """The summary as a document."""
        return json.dumps({**asdict(self), "changed": self.changed}, indent=2) + "\n"


def summarize(judgments: Sequence[Judgment], money: Money) -> Summary:
    """Return the summary of one judge's run."""
    names = Counter(
        " ".join(filter(None, (judgment.model, judgment.fingerprint)))
        for judgment in judgments
        if judgment.model
    )
    return Summary(leaning=leaning(judgments), models=dict(names), money=money)


def _ended(reply: dict[str, Any]) -> str:
    choices = reply.get("choices") or [{}]
    return str(choices[0].get("finish_reason"))


def _sides(counts: dict[str, int]) -> str:
    return " / ".join(f"{counts[side]} {side}" for side in SIDES)


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
