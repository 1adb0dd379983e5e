"""What judging costs: prices, the estimate before a run, the budget that a run never exceeds."""

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

SNAPSHOT_DATE = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{4})$")  # gpt-4o-2024-08-06, gpt-4-0613
LENGTH_LIMITS = ("max_completion_tokens", "max_tokens")
TOKENS_PER_MESSAGE = 8  # that a chat format may add to a message; more than any known one does


@dataclass(frozen=True, kw_only=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return what so many tokens cost, in USD."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What a run is about to ask, and what that may cost."""

    model: str
    matches: int
    requests: int  # distinct ones
    stored: int  # of these, those whose reply is stored
    input_tokens: int  # of those still to be asked
    output_tokens: int
    method: str  # how tokens were counted
    spent: float | None  # USD for the stored replies
    cost: float | None  # USD still to be spent; None: the price is not known
    batch: bool

    def describe(self) -> str:
        """Return the estimate in a line or two, as it is shown before the run."""
        repeated = self.matches - self.requests
        text = (
            f"judge {self.model}: {self.matches} verdicts, {self.requests} requests"
            + (f" ({repeated} repeat another's)" if repeated else "")
            + f", {self.stored} of them answered before; to ask: {self.requests - self.stored}"
            + (" as a batch" if self.batch else "")
            + f", about {self.input_tokens:,} tokens in and {self.output_tokens:,} out "
            f"({self.method}), "
            + ("at a price that is not known" if self.cost is None else f"${self.cost:.2f}")
        )
        if self.stored and self.spent is not None:
            text += f", beside ${self.spent:.2f} spent before"
        return text


def find_price(cfg: JudgeConfig) -> Price | None:
    """Return the price of a model, None where it is not known; a snapshot costs as its model.

    Raises:
        ConfigError: the price is malformed, or unknown where judge.max_cost is set.
    """
    entry: Mapping[str, Any] | None = cfg.price
    if entry is None:
        names = (str(cfg.model), SNAPSHOT_DATE.sub("", str(cfg.model)))
        entry = next((cfg.prices[name] for name in names if name in cfg.prices), None)
    if entry is None:
        if cfg.max_cost is not None:
            raise ConfigError(
                f"judge.max_cost={cfg.max_cost} needs a price, and conf/judge/_prices.yaml has "
                f"none for {cfg.model}; write 'judge.price={{input: USD, output: USD}}' "
                "(per million tokens)"
            )
        return None
    share = cfg.batch_discount if cfg.mode == "batch" else 1.0
    try:
        return Price(input=float(entry["input"]) * share, output=float(entry["output"]) * share)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the price of {cfg.model} is {dict(entry)}, and must have input and output, USD per "
            "million tokens"
        ) from error


def load_token_counter(cfg: JudgeConfig) -> tuple[Callable[[str], int], str]:
    """Return (a function that counts a text's tokens, how it does so in words)."""
    name = cfg.estimate.tokenizer
    if name is None:
        ratio = cfg.estimate.chars_per_token
        return lambda text: round(len(text) / ratio), f"estimated at {ratio:g} characters a token"
    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(
            f"judge.estimate.tokenizer={name} cannot be read; name a tokenizer.json or its folder"
        ) from error
    return lambda text: len(tokenizer.encode(text).ids), f"counted by {name}"


def max_reply_tokens(cfg: JudgeConfig) -> int | None:
    """Return the most tokens that a reply can have; None where the request sets no limit."""
    limits = (cfg.request.get(name) for name in LENGTH_LIMITS)
    return next((int(limit) for limit in limits if limit), None)


def estimate_input_tokens(body: dict[str, Any], count: Callable[[str], int]) -> int:
    """Return about how many tokens a request's messages have."""
    return sum(count(message["content"]) + TOKENS_PER_MESSAGE // 2 for message in body["messages"])


def max_input_tokens(body: dict[str, Any]) -> int:
    """Return a number of input tokens that a request cannot exceed: no token is below a byte."""
    n_bytes = len(json.dumps(body, ensure_ascii=False).encode())
    return n_bytes + TOKENS_PER_MESSAGE * len(body["messages"])


class Budget:
    """The money of one run: what was spent, and what requests under way may still cost.

    A request starts only when the most that it can cost fits, so that no reply exceeds
    judge.max_cost. A try whose reply got lost counts in full, since the server may charge for it.
    """

    def __init__(self, cfg: JudgeConfig, price: Price | None, *, spent: float) -> None:
        self._limit = cfg.max_cost
        self._price = price
        self._reply_tokens = max_reply_tokens(cfg)
        self._spent = spent  # USD
        self._reserved = 0.0  # USD
        self._settled = asyncio.Event()
        if self._limit is not None and self._reply_tokens is None:
            raise ConfigError(
                f"judge.max_cost={self._limit} needs a limit to what one reply can cost; set "
                "judge.request.max_completion_tokens (or max_tokens, for older models)"
            )

    def max_cost(self, body: dict[str, Any]) -> float:
        """Return the most USD that a request can cost; 0 where nothing is capped."""
        if self._limit is None or self._price is None or self._reply_tokens is None:
            return 0.0
        return self._price.cost(max_input_tokens(body), self._reply_tokens)

    def has_room(self, amount: float) -> bool:
        """Whether requests that cost so much at most may be sent now."""
        return self._limit is None or self._spent + self._reserved + amount <= self._limit

    async def reserve(self, amount: float) -> None:
        """Set the most that a request can cost apart; wait for others to be settled if need be."""
        while not self.has_room(amount):
            if not self._reserved:
                raise self._exhausted(amount)
            self._settled.clear()
            await self._settled.wait()
        self._reserved += amount

    def settle(self, reserved: float, *, cost: float) -> None:
        """Put what a request did cost in the place of what was reserved for it."""
        self._reserved = max(0.0, self._reserved - reserved)
        if self._reserved < 1e-12:
            self._reserved = 0.0  # rounding must not keep the last one waiting
        self._spent += cost
        self._settled.set()

    def count_lost(self, amount: float) -> None:
        """Count a try whose reply never came; RunError where another could exceed the budget."""
        self._spent += amount
        if not self.has_room(0.0):
            raise self._exhausted(amount)

    def cost(self, reply: dict[str, Any], *, fallback: float) -> float:
        """Return the USD that a reply cost; `fallback` where it reports no usage."""
        return reply_cost(reply, self._price, fallback=fallback)

    def _exhausted(self, amount: float) -> RunError:
        return RunError(
            f"judge.max_cost={self._limit:g} would be crossed: ${self._spent:.4f} are spent and "
            f"the next request may cost ${amount:.4f}; raise it and run the same command again, "
            "replies so far are stored"
        )


def read_usage(reply: dict[str, Any]) -> tuple[int, int] | None:
    """Return (input, output) tokens as a reply reports them; None where it does not."""
    try:
        usage = reply["usage"]
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (KeyError, TypeError, ValueError):
        return None


def reply_cost(reply: dict[str, Any], price: Price | None, *, fallback: float = 0.0) -> float:
    """Return the USD that a reply cost; `fallback` where it reports no usage."""
    tokens = read_usage(reply)
    if price is None:
        return 0.0
    return fallback if tokens is None else price.cost(*tokens)
