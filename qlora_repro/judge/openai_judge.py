"""The judge behind an OpenAI-compatible server: from matches to verdicts."""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qlora_repro.config import JudgeConfig
from qlora_repro.console import progress, say
from qlora_repro.errors import ConfigError
from qlora_repro.judge.batch import ask_in_batches
from qlora_repro.judge.online import Asking, ask_all
from qlora_repro.judge.price import (
    Budget,
    Plan,
    cost_of,
    estimated,
    longest_reply,
    price_of,
    token_counter,
)
from qlora_repro.judge.replies import Replies, replies_in, request_key
from qlora_repro.judge.reply import verdict
from qlora_repro.judge.request import check, read_key, request
from qlora_repro.judge.server import Server
from qlora_repro.judge.summary import Money, summarize
from qlora_repro.records import Judgment, Match
from qlora_repro.store.runs import write_whole

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
