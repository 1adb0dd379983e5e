"""From a stored reply to a verdict.

The judge behind an OpenAI-compatible server: from matches to verdicts.
"""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.console import progress, say
from qlora_repro.errors import ConfigError
from qlora_repro.judge.client.batch import ask_in_batches
from qlora_repro.judge.client.online import REJECTED, Asking, ask_all
from qlora_repro.judge.client.prices import (
    Budget,
    Plan,
    cost_of,
    estimated,
    longest_reply,
    price_of,
    token_counter,
)
from qlora_repro.judge.client.replies import Replies, replies_in, request_key
from qlora_repro.judge.client.request import check, read_key, request
from qlora_repro.judge.client.server import Server
from qlora_repro.judge.judgments import Source, judgment
from qlora_repro.judge.parsing import PARSERS, Reading, read_structured
from qlora_repro.judge.protocol import kind_of
from qlora_repro.judge.summary import Money, summarize
from qlora_repro.records import Judgment, Match
from qlora_repro.store.integrity import write_whole


def verdict(match: Match, cfg: JudgeConfig, *, key: str, reply: dict[str, Any]) -> Judgment:
    """Return the judgment that a stored reply holds."""
    source = Source(
        judge=str(cfg.model),
        protocol=cfg.protocol,
        prompt=kind_of(match.category),
        reply=key,
        model=str(reply.get("model") or ""),
        fingerprint=str(reply.get("system_fingerprint") or ""),
    )
    return judgment(match, source, read(reply, cfg.protocol, structured=cfg.structured))


def read(reply: dict[str, Any], protocol: str, *, structured: bool) -> Reading:
    """Read a chat completion; a refusal or a filtered reply is named as such.

    >>> said = {"message": {"content": "Equal.\\n3", "refusal": None}, "finish_reason": "stop"}
    >>> read({"choices": [said]}, "three_class", structured=False).verdict
    'tie'
    >>> said = {"message": {"content": None, "refusal": "I will not judge this."}}
    >>> read({"choices": [said]}, "three_class", structured=False).parse
    'refused'
    """
    if REJECTED in reply:
        return Reading(parse="api_error")
    choice = reply["choices"][0]
    if choice["message"].get("refusal") or choice.get("finish_reason") == "content_filter":
        return Reading(parse="refused")
    text = content(choice["message"])
    return read_structured(protocol, text) if structured else PARSERS[protocol](text)


def content(message: dict[str, Any]) -> str:
    """Return a message's text, also where a server sends it in parts.

    >>> content({"content": [{"type": "text", "text": "Fine.\\n"}, {"type": "text", "text": "1"}]})
    'Fine.\\n1'
    """
    found = message.get("content")
    if isinstance(found, list):
        return "".join(str(part.get("text", "")) for part in found if isinstance(part, dict))
    return found if isinstance(found, str) else ""


SUMMARY = "summary.json"
Bodies = Mapping[str, dict[str, Any]]  # requests by their key


def judge_openai(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Return one judgment a match, in the order given; replies are kept in `folder`.

    What is stored there is not asked again. Raises ConfigError before anything is sent, RunError
    when the server, or judge.max_cost, ends the run; the same call then goes on where it ended.
    """
    check(cfg)
    requests = [request(match, cfg) for match in matches]
    keys = [request_key(cfg.base_url, body) for body in requests]
    bodies = dict(zip(keys, requests, strict=True))
    with replies_in(folder) as replies:
        planned = plan(bodies, replies, cfg, matches=len(matches))
        say(planned.text)
        _refuse_above_cap(planned, cfg)
        if planned.requests > planned.stored:
            read_key(cfg)
            gc.freeze()  # the requests stay: looking through them for garbage again costs time
            asyncio.run(_ask(bodies, replies, cfg, folder))
        judgments = [
            verdict(match, cfg, key=key, reply=replies[key])
            for match, key in zip(matches, keys, strict=True)
        ]
        found = summarize(judgments, Money.of([replies[key] for key in bodies], price_of(cfg)))
    for line in found.lines:
        say(line)
    write_whole(folder / SUMMARY, found.json)
    return judgments


def plan(bodies: Bodies, replies: Replies, cfg: JudgeConfig, *, matches: int) -> Plan:
    """Return what a run is about to ask and what it may cost, by the replies that are not here."""
    count, how = token_counter(cfg)
    price = price_of(cfg)
    asked = [body for key, body in bodies.items() if key not in replies]
    stored = [replies[key] for key in bodies if key in replies]
    tokens_in = sum(estimated(body, count) for body in asked)
    tokens_out = cfg.estimate.reply_tokens * len(asked)
    return Plan(
        model=str(cfg.model),
        matches=matches,
        requests=len(bodies),
        stored=len(stored),
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        counted=how,
        spent=None if price is None else sum(cost_of(reply, price) for reply in stored),
        cost=None if price is None else price.of(tokens_in, tokens_out),
        batch=cfg.mode == "batch",
    )


def _refuse_above_cap(planned: Plan, cfg: JudgeConfig) -> None:
    if cfg.max_cost is None or planned.cost is None:
        return
    total = planned.cost + (planned.spent or 0.0)
    if planned.requests > planned.stored and total > cfg.max_cost:
        raise ConfigError(
            f"judging is planned at ${total:.4f}, and judge.max_cost is {cfg.max_cost:g}; "
            "raise it, or judge fewer questions"
        )


async def _ask(bodies: Bodies, replies: Replies, cfg: JudgeConfig, folder: Path) -> None:
    price = price_of(cfg)
    spent = sum(cost_of(replies[key], price) for key in bodies if key in replies)
    budget = Budget(cfg, price, spent=spent)
    missing = {key: body for key, body in bodies.items() if key not in replies}
    with progress(f"asking {cfg.model}") as on_progress:
        done = 0

        def on_reply() -> None:
            nonlocal done
            done += 1
            on_progress(done, len(missing))

        async with Server(cfg) as server:
            asking = Asking(
                server=server,
                replies=replies,
                budget=budget,
                tokens=_expected(cfg),
                on_reply=on_reply,
            )
            if cfg.mode == "batch":
                await ask_in_batches(missing, asking, cfg, folder)
            else:
                await ask_all(missing, asking, workers=cfg.client.concurrency)


def _expected(cfg: JudgeConfig) -> Any:
    """Return a function that foretells a request's tokens as a server's limit counts them."""
    count, _ = token_counter(cfg)
    longest = longest_reply(cfg) or cfg.estimate.reply_tokens
    if cfg.client.tokens_per_minute is None:
        return lambda body: 0
    return lambda body: estimated(body, count) + longest
