"""Matches between two systems, and the settings of a judge that talks to loopback."""

from collections.abc import Callable
from typing import Any

from qlora_repro.config.schema import JudgeConfig, RunConfig
from qlora_repro.records import Match

KEY = "sk-test-4f9d2c7b1a6e"  # of no account


def match(number: int = 0, **changed: Any) -> Match:
    """Return a match whose texts differ from any other number's."""
    values: dict[str, Any] = {
        "question_id": str(number),
        "question": f"What is {number} plus one?",
        "category": "generic",
        "lang": "en",
        "first": "left",
        "second": "right",
        "answer_first": f"It is {number + 1}.",
        "answer_second": f"I think {number}.",
        "reference": "",
    }
    return Match(**values | changed)


def settings(
    configured: Callable[..., RunConfig], *words: str, base_url: str = "http://127.0.0.1:9/v1"
) -> JudgeConfig:
    """Return the settings of judge=gpt4_pairwise for a server of the test's own, which is fast."""
    fast = ["client.backoff=0.001", "client.longest_wait=0.01", "client.timeout=5", "client.poll=0"]
    given = [f"judge.{word}" for word in (*fast, f"base_url={base_url}", *words)]
    return configured("judge=gpt4_pairwise", *given).judge
