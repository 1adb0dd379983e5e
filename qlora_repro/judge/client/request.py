"""What is sent for a match, and the settings that no request can be made of."""

import os
from typing import Any
from urllib.parse import urlsplit

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.config.validate import at_least
from qlora_repro.errors import ConfigError
from qlora_repro.judge.protocol import ASKED_FIELDS, messages, response_format
from qlora_repro.records import Match

OURS = ("model", "messages", "stream", "n", "response_format")  # that judge.request may not set
MODES = ("online", "batch")
NO_KEY = "none"  # what a server is sent that wants no key


def request(match: Match, cfg: JudgeConfig) -> dict[str, Any]:
    """Return the body of the chat request for a match."""
    body = {"model": cfg.model, "messages": messages(match, cfg), **cfg.request}
    return body | ({"response_format": response_format(cfg.protocol)} if cfg.structured else {})


def check(cfg: JudgeConfig) -> None:
    """Raise ConfigError for settings that cannot work, before anything is sent."""
    if not cfg.model:
        raise ConfigError(f"judge={cfg.name} names no model; write judge.model=NAME")
    for name, value, known in (
        ("protocol", cfg.protocol, tuple(ASKED_FIELDS)),
        ("mode", cfg.mode, MODES),
    ):
        if value not in known:
            raise ConfigError(f"judge.{name} is {value!r}, and must be one of {', '.join(known)}")
    taken = [name for name in OURS if name in cfg.request]
    if taken:
        raise ConfigError(
            f"judge.request sets {taken[0]}, which follows from other settings; drop it"
        )
    if cfg.structured and cfg.prompts is not None:
        raise ConfigError(
            f"judge.structured=true asks for JSON and the prompts in {cfg.prompts} for lines; drop "
            "one of the two"
        )
    _check_numbers(cfg)
    _check_address(cfg.base_url)


def read_key(cfg: JudgeConfig) -> str:
    """Return the key of the server; ConfigError where there is none."""
    name = cfg.client.key_env
    if name is None:
        return NO_KEY
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"judge={cfg.name} needs a key and {name} is not set; set that environment variable, "
            "or write judge.client.key_env=null for a server that wants none"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{name} holds characters that no key has; set it anew")
    return key


def _check_numbers(cfg: JudgeConfig) -> None:
    client, estimate = cfg.client, cfg.estimate
    lows: list[tuple[str, float | None, float]] = [
        ("client.concurrency", client.concurrency, 1),
        ("client.attempts", client.attempts, 1),
        ("client.requests_per_minute", client.requests_per_minute, 1),
        ("client.tokens_per_minute", client.tokens_per_minute, 1),
        ("client.backoff", client.backoff, 0),
        ("client.longest_wait", client.longest_wait, 0),
        ("client.poll", client.poll, 0),
        ("client.timeout", client.timeout, 1e-3),
        ("estimate.chars_per_token", estimate.chars_per_token, 1e-3),
        ("estimate.reply_tokens", estimate.reply_tokens, 0),
        ("batch_discount", cfg.batch_discount, 0),
        ("max_cost", cfg.max_cost, 0),
    ]
    for name, value, low in lows:
        at_least(f"judge.{name}", value, low)


def _check_address(base_url: str) -> None:
    """Refuse an address that is none, or that holds a password: it would end up in results."""
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"judge.base_url holds more than an address ({parts.scheme}://{parts.hostname}...); a "
            "key comes from the environment only"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"judge.base_url is {base_url!r}, and must be like http://localhost:8000/v1"
        )
