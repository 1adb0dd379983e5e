"""The judge's section of the configuration: types without values."""

from dataclasses import dataclass
from typing import Any


@dataclass
class ClientConfig:
    """How a server is talked to; none of it changes a reply."""

    key_env: str | None  # the environment variable that holds the key; null: none is wanted
    concurrency: int  # requests under way at once
    requests_per_minute: int | None
    tokens_per_minute: int | None
    timeout: float  # s, of one try
    attempts: int  # tries of one request; only passing faults are tried again
    backoff: float  # s before the second try; doubled at each further one, then jittered
    longest_wait: float  # s between two tries, unless the server asks for more
    poll: float  # s between two looks at a batch


@dataclass
class EstimateConfig:
    """What a plan assumes where only a run can tell."""

    tokenizer: str | None  # a folder or tokenizer.json that counts tokens; null: by characters
    chars_per_token: float
    reply_tokens: int  # of one reply


@dataclass
class JudgeConfig:
    name: str
    kind: str  # a key of judge.stage.JUDGES: none, openai, ...
    run: str | None  # whose answers: a run's id or folder name, or a file; null: this cell's
    opponent: Any  # against whom: base (this cell, untuned), or as for run; one, or a list of them
    protocol: str  # score10 or three_class
    prompts: str | None  # a prompt file in the authors' format; null: our own
    both_orders: bool
    margin: float  # reference: overlaps, in [0, 1], no further apart than this are a tie
    benchmark: str  # replay: of which questions, vicuna or oa
    votes: str | None  # human: a csv of verdicts, as the annotation page writes it
    seed: int  # draws the nonces that delimit answers
    model: str | None  # as the server knows it
    base_url: str  # of an OpenAI-compatible server
    request: dict[str, Any]  # fields sent as they are: temperature, max_completion_tokens, ...
    structured: bool  # ask for JSON by a schema
    mode: str  # online, or batch (OpenAI's Batch API)
    max_cost: float | None  # USD; a run does not start above it, and stops before crossing it
    price: dict[str, float] | None  # input and output, USD per million tokens; null: as in prices
    prices: dict[str, Any]  # the same by model
    batch_discount: float  # what a batch costs, as a share of the price
    client: ClientConfig
    estimate: EstimateConfig
