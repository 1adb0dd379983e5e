"""What judging costs: the plan before a run, and the cap that a run never crosses."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.errors import ConfigError, RunError

MILLION = 1e6
DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{4})$")  # gpt-4o-2024-08-06, gpt-4-0613
LENGTHS = ("max_completion_tokens", "max_tokens")
PER_MESSAGE = 8  # tokens that a chat format may add to a message's own; more than any known one


@dataclass(frozen=True, kw_only=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """Return what so many tokens cost, in USD."""
        return (tokens_in * self.input + tokens_out * self.output) / MILLION


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is about to be asked."""

    model: str
    matches: int
    requests: int  # of them, those that differ
    stored: int  # of these, those whose reply is here already
    input_tokens: int  # of what is still to be asked, estimated
    output_tokens: int
    counted: str  # how tokens were counted
    spent: float | None  # USD that the stored replies cost
    cost: float | None  # USD still to be spent; None: the price is not known
    batch: bool

    @property
    def text(self) -> str:
        """The plan in a line or two, as it is shown before the run."""
        asked = self.requests - self.stored
        same = self.matches - self.requests
        return (
            f"judge {self.model}: {self.matches} verdicts, {self.requests} requests"
            + (f" ({same} repeat another's)" if same else "")
            + f", {self.stored} of them answered before; to ask: {asked}"
            + (" as a batch" if self.batch else "")
            + f", about {self.input_tokens:,} tokens in and {self.output_tokens:,} out "
            f"({self.counted}), " + _usd(self.cost) + (self._spent if self.stored else "")
        )

    @property
    def _spent(self) -> str:
        return "" if self.spent is None else f", beside {_usd(self.spent)} spent before"


def _usd(cost: float | None) -> str:
    return "at a price that is not known" if cost is None else f"${cost:.2f}"


def price_of(cfg: JudgeConfig) -> Price | None:
    """Return the price of a model, None where it is not known; a snapshot costs as its model."""
    found: Mapping[str, Any] | None = cfg.price
    if found is None:
        names = (str(cfg.model), DATED.sub("", str(cfg.model)))
        found = next((cfg.prices[name] for name in names if name in cfg.prices), None)
    if found is None:
        if cfg.max_cost is not None:
            raise ConfigError(
                f"judge.max_cost={cfg.max_cost} needs a price, and conf/judge/_prices.yaml has "
                f"none for {cfg.model}; write 'judge.price={{input: USD, output: USD}}' "
                "(per million tokens)"
            )
        return None
    try:
        given = {name: float(found[name]) for name in ("input", "output")}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the price of {cfg.model} is {dict(found)}, and must have input and output, USD per "
            "million tokens"
        ) from error
    share = cfg.batch_discount if cfg.mode == "batch" else 1.0
    return Price(input=given["input"] * share, output=given["output"] * share)


def token_counter(cfg: JudgeConfig) -> tuple[Callable[[str], int], str]:
    """Return (a function that counts a text's tokens, how it does so in words)."""
    named = cfg.estimate.tokenizer
    if named is None:
        per = cfg.estimate.chars_per_token
        return lambda text: round(len(text) / per), f"estimated at {per:g} characters a token"
    path = Path(named).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(
            f"judge.estimate.tokenizer={named} cannot be read; name a tokenizer.json or its folder"
        ) from error
    return lambda text: len(tokenizer.encode(text).ids), f"counted by {named}"


def longest_reply(cfg: JudgeConfig) -> int | None:
    """Return the most tokens that a reply can have; None where the request sets no limit."""
    return next((int(cfg.request[name]) for name in LENGTHS if cfg.request.get(name)), None)


def estimated(body: dict[str, Any], count: Callable[[str], int]) -> int:
    """Return about how many tokens a request's messages have."""
    return sum(count(message["content"]) + PER_MESSAGE // 2 for message in body["messages"])


def at_most(body: dict[str, Any]) -> int:
    """Return a number of input tokens that a request cannot exceed: no token is below a byte."""
    return len(json.dumps(body, ensure_ascii=False).encode()) + PER_MESSAGE * len(body["messages"])


class Budget:
    """The money of one run: what was spent, and what requests under way may still cost.

    A request starts only when the most that it can cost fits: actual usage never crosses the cap.
    A try whose reply got lost counts at that bound, since the server may charge for it.
    """

    def __init__(self, cfg: JudgeConfig, price: Price | None, *, spent: float) -> None:
        self._cap = cfg.max_cost
        self._price = price
        self._longest = longest_reply(cfg)
        self.spent = spent  # USD
        self._reserved = 0.0
        self._changed = asyncio.Event()
        if self._cap is not None and self._longest is None:
            raise ConfigError(
                f"judge.max_cost={self._cap} needs a limit to what one reply can cost; set "
                "judge.request.max_completion_tokens (or max_tokens, for older models)"
            )

    def bound(self, body: dict[str, Any]) -> float:
        """Return the most USD that a request can cost; 0 where nothing is capped."""
        if self._cap is None or self._price is None or self._longest is None:
            return 0.0
        return self._price.of(at_most(body), self._longest)

    def fits(self, bound: float) -> bool:
        """Whether requests that cost so much at most may be sent now."""
        return self._cap is None or self.spent + self._reserved + bound <= self._cap

    async def reserve(self, bound: float) -> None:
        """Set the most that a request can cost apart; wait for others to finish if need be."""
        while not self.fits(bound):
            if not self._reserved:
                raise self._crossing(bound)
            self._changed.clear()
            await self._changed.wait()
        self._reserved += bound

    def settle(self, bound: float, *, cost: float) -> None:
        """Put what a request did cost in the place of what it might have."""
        self._reserved = max(0.0, self._reserved - bound)
        if self._reserved < 1e-12:
            self._reserved = 0.0  # rounding must not keep the last one waiting
        self.spent += cost
        self._changed.set()

    def lose(self, bound: float) -> None:
        """Count a try whose reply never came; RunError when another one could cross the cap."""
        self.spent += bound
        if not self.fits(0.0):
            raise self._crossing(bound)

    def _crossing(self, bound: float) -> RunError:
        return RunError(
            f"judge.max_cost={self._cap:g} would be crossed: ${self.spent:.4f} are spent and the "
            f"next request may cost ${bound:.4f}; raise it and run the same command again, replies "
            "so far are stored"
        )

    def cost(self, reply: dict[str, Any], *, fallback: float) -> float:
        """Return what a reply cost by the usage that it reports."""
        return cost_of(reply, self._price, fallback=fallback)


def usage(reply: dict[str, Any]) -> tuple[int, int] | None:
    """Return (input, output) tokens as a reply reports them; None where it does not."""
    found = reply.get("usage")
    try:
        return int(found["prompt_tokens"]), int(found["completion_tokens"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None


def cost_of(reply: dict[str, Any], price: Price | None, *, fallback: float = 0.0) -> float:
    """Return the USD that a reply cost; `fallback` where it reports no usage."""
    tokens = usage(reply)
    if price is None:
        return 0.0
    return fallback if tokens is None else price.of(*tokens)
