"""The judge behind an OpenAI-compatible server: matches, requests, replies, verdicts, summary."""

import asyncio
import gc
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.console import progress, say
from qlora_repro.errors import ConfigError
from qlora_repro.judge.api_client import REJECTED, ApiClient, RequestContext, complete_all
from qlora_repro.judge.batch_api import complete_in_batches
from qlora_repro.judge.cost import (
    Budget,
    CostEstimate,
    Price,
    estimate_input_tokens,
    find_price,
    load_token_counter,
    max_reply_tokens,
    read_usage,
    reply_cost,
)
from qlora_repro.judge.matches import VerdictSource, build_judgment
from qlora_repro.judge.parsing import PARSERS, ParsedReply, parse_json_reply
from qlora_repro.judge.protocol import build_request, check_settings, prompt_kind, read_api_key
from qlora_repro.judge.replies import ReplyStore, hash_request, open_replies
from qlora_repro.records import Judgment, Match, MatchVerdict, ParseStatus
from qlora_repro.store.integrity import write_atomic

SUMMARY = "summary.json"
MAX_MODELS = 4  # model names that a line lists; of more, the rest is counted
Bodies = Mapping[str, dict[str, Any]]  # requests by their key


def judge_openai(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Ask a server for one verdict a match.

    Replies are stored in `folder`; what is stored there is not asked again.

    Returns:
        Judgments in the order of the matches.

    Raises:
        ConfigError: before anything is sent.
        RunError: the server, or judge.max_cost, ends the run; the same call goes on from there.
    """
    check_settings(cfg)
    requests = [build_request(match, cfg) for match in matches]
    keys = [hash_request(cfg.base_url, body) for body in requests]
    bodies = dict(zip(keys, requests, strict=True))
    price = find_price(cfg)
    with open_replies(folder) as replies:
        estimate = estimate_cost(bodies, replies, cfg, matches=len(matches))
        say(estimate.describe())
        if estimate.requests > estimate.stored:
            _check_estimate(estimate, cfg)
            read_api_key(cfg)
            gc.freeze()  # the requests stay: searching them for garbage again and again takes time
            asyncio.run(_request_replies(bodies, replies, cfg, folder))
        judgments = [
            judgment_from_completion(match, cfg, key=key, reply=replies[key])
            for match, key in zip(matches, keys, strict=True)
        ]
        usage = sum_usage([replies[key] for key in bodies], price)
    summary = summarize_judging(judgments, usage)
    for line in summary.describe():
        say(line)
    write_atomic(folder / SUMMARY, summary.to_json())
    return judgments


def estimate_cost(
    bodies: Bodies, replies: ReplyStore, cfg: JudgeConfig, *, matches: int
) -> CostEstimate:
    """Return what a run is about to ask and what that may cost."""
    count, method = load_token_counter(cfg)
    price = find_price(cfg)
    missing = [body for key, body in bodies.items() if key not in replies]
    stored = [replies[key] for key in bodies if key in replies]
    input_tokens = sum(estimate_input_tokens(body, count) for body in missing)
    output_tokens = cfg.estimate.reply_tokens * len(missing)
    return CostEstimate(
        model=str(cfg.model),
        matches=matches,
        requests=len(bodies),
        stored=len(stored),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        method=method,
        spent=None if price is None else sum(reply_cost(reply, price) for reply in stored),
        cost=None if price is None else price.cost(input_tokens, output_tokens),
        batch=cfg.mode == "batch",
    )


def _check_estimate(estimate: CostEstimate, cfg: JudgeConfig) -> None:
    if cfg.max_cost is None or estimate.cost is None:
        return
    total = estimate.cost + (estimate.spent or 0.0)
    if total > cfg.max_cost:
        raise ConfigError(
            f"judging is planned at ${total:.4f}, and judge.max_cost is {cfg.max_cost:g}; "
            "raise it, or judge fewer questions"
        )


async def _request_replies(
    bodies: Bodies, replies: ReplyStore, cfg: JudgeConfig, folder: Path
) -> None:
    """Ask for the replies that are not stored."""
    price = find_price(cfg)
    spent = sum(reply_cost(replies[key], price) for key in bodies if key in replies)
    missing = {key: body for key, body in bodies.items() if key not in replies}
    count, _ = load_token_counter(cfg)
    reply_tokens = max_reply_tokens(cfg) or cfg.estimate.reply_tokens
    done = itertools.count(1)

    def expected_tokens(body: dict[str, Any]) -> int:
        if cfg.client.tokens_per_minute is None:
            return 0
        return estimate_input_tokens(body, count) + reply_tokens

    with progress(f"asking {cfg.model}") as on_progress:
        async with ApiClient(cfg) as client:
            context = RequestContext(
                client=client,
                replies=replies,
                budget=Budget(cfg, price, spent=spent),
                expected_tokens=expected_tokens,
                on_reply=lambda: on_progress(next(done), len(missing)),
            )
            if cfg.mode == "batch":
                await complete_in_batches(missing, context, cfg, folder)
            else:
                await complete_all(missing, context, concurrency=cfg.client.concurrency)


def judgment_from_completion(
    match: Match, cfg: JudgeConfig, *, key: str, reply: dict[str, Any]
) -> Judgment:
    """Return the judgment that a stored reply holds."""
    source = VerdictSource(
        judge=str(cfg.model),
        protocol=cfg.protocol,
        prompt=prompt_kind(match.category),
        reply=key,
        model=str(reply.get("model") or ""),
        fingerprint=str(reply.get("system_fingerprint") or ""),
    )
    parsed = parse_completion(reply, cfg.protocol, structured=cfg.structured)
    return build_judgment(match, source, parsed)


def parse_completion(reply: dict[str, Any], protocol: str, *, structured: bool) -> ParsedReply:
    """Read a chat completion; a refusal or a filtered reply is named as such.

    >>> choice = {"message": {"content": "Equal.\\n3", "refusal": None}, "finish_reason": "stop"}
    >>> print(parse_completion({"choices": [choice]}, "three_class", structured=False).verdict)
    tie
    >>> choice = {"message": {"content": None, "refusal": "I will not judge this."}}
    >>> print(parse_completion({"choices": [choice]}, "three_class", structured=False).parse)
    refused
    """
    if REJECTED in reply:
        return ParsedReply(parse=ParseStatus.API_ERROR)
    choice = reply["choices"][0]
    if choice["message"].get("refusal") or choice.get("finish_reason") == "content_filter":
        return ParsedReply(parse=ParseStatus.REFUSED)
    text = message_text(choice["message"])
    return parse_json_reply(protocol, text) if structured else PARSERS[protocol](text)


def message_text(message: dict[str, Any]) -> str:
    """Return a message's text, also where a server sends it in parts.

    >>> message_text({"content": [{"type": "text", "text": "Fine."}, {"text": "1"}]})
    'Fine.1'
    """
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


@dataclass(frozen=True, kw_only=True)
class ParseFailures:
    """Replies that the strict parser could not read, against those that it could.

    Failures that lean to one side make a ranking that leaves them out lean to the other.
    """

    n: int
    read: dict[str, int]  # strictly: verdicts by side
    recovered: dict[str, int]  # by the lenient parser only
    unread: dict[str, int]  # by neither: unparsed, refused, api_error
    p: float | None  # Fisher's exact test: first or second, read or recovered; None: too few

    @property
    def n_failed(self) -> int:
        """How many the strict parser could not read."""
        return self.n - sum(self.read.values())

    def describe(self) -> str:
        """Return the counts, and in which direction failures lean, in a sentence."""
        if not self.n_failed:
            return f"all {self.n} replies could be read"
        text = f"{self.n_failed} of {self.n} replies could not be read strictly"
        if sum(self.recovered.values()):
            read, recovered = (
                " / ".join(f"{counts[side]} {side}" for side in MatchVerdict)
                for counts in (self.read, self.recovered)
            )
            text += f": leniently {recovered} (of those read strictly {read}"
            if self.p is not None:
                p = "< 0.001" if self.p < 0.001 else f"{self.p:.3f}"
                text += f"; the two differ with p {p}"
            text += ")"
        unread = ", ".join(f"{count} {why}" for why, count in sorted(self.unread.items()))
        return text + (f"; no verdict: {unread}" if unread else "")


@dataclass(frozen=True, kw_only=True)
class TokenUsage:
    """What the replies took."""

    replies: int
    input_tokens: int
    output_tokens: int
    unreported: int  # replies without usage
    cut: int  # replies that ended at the limit of their length
    cost: float | None  # USD; None: the price is not known


@dataclass(frozen=True, kw_only=True)
class JudgingSummary:
    """What came out of one judge's run: what could be read, who replied, what it cost."""

    failures: ParseFailures
    models: dict[str, int]  # verdicts by model name and fingerprint, as the server gave them
    usage: TokenUsage

    @property
    def model_changed(self) -> bool:
        """Whether more than one model, or version of it, replied."""
        return len(self.models) > 1

    def describe(self) -> list[str]:
        """Return the summary in lines."""
        usage = self.usage
        cost = "" if usage.cost is None else f", ${usage.cost:.4f}"
        unreported = f"; {usage.unreported} report no usage" if usage.unreported else ""
        lines = [
            self.failures.describe(),
            f"{usage.replies} replies: {usage.input_tokens:,} tokens in, "
            f"{usage.output_tokens:,} out{cost}{unreported}",
        ]
        if usage.cut:
            lines.append(f"note: {usage.cut} replies were cut off at the limit of their length")
        if self.model_changed:
            models = Counter(self.models).most_common()
            names = ", ".join(f"{name} ({count})" for name, count in models[:MAX_MODELS])
            more = f" and {len(models) - MAX_MODELS} more" if len(models) > MAX_MODELS else ""
            lines.append(f"note: the model changed within this run: {names}{more}")
        elif self.models:
            lines.append(f"the server calls the model {next(iter(self.models))}")
        return lines

    def to_json(self) -> str:
        """Return the summary as a document, under the keys that stored ones have."""
        document = {
            "leaning": asdict(self.failures),
            "models": self.models,
            "money": asdict(self.usage),
            "changed": self.model_changed,
        }
        return json.dumps(document, indent=2) + "\n"


def summarize_judging(judgments: Sequence[Judgment], usage: TokenUsage) -> JudgingSummary:
    """Return the summary of one judge's run."""
    models = Counter(
        " ".join(filter(None, (judgment.model, judgment.fingerprint)))
        for judgment in judgments
        if judgment.model
    )
    failures = count_parse_failures(judgments)
    return JudgingSummary(failures=failures, models=dict(models), usage=usage)


def count_parse_failures(judgments: Iterable[Judgment]) -> ParseFailures:
    """Count what the strict parser could not read, and test in which direction it leans."""
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
    table = np.array([[counts["first"], counts["second"]] for counts in (read, recovered)])
    return ParseFailures(
        n=read.total() + recovered.total() + unread.total(),
        read={side: read[side] for side in MatchVerdict},
        recovered={side: recovered[side] for side in MatchVerdict},
        unread=dict(unread),
        p=float(fisher_exact(table).pvalue) if table.sum(axis=1).all() else None,
    )


def sum_usage(replies: Sequence[dict[str, Any]], price: Price | None) -> TokenUsage:
    """Add up what stored replies report."""
    reported = [usage for reply in replies if (usage := read_usage(reply)) is not None]
    ends = [choice.get("finish_reason") for reply in replies for choice in reply.get("choices", [])]
    return TokenUsage(
        replies=len(replies),
        input_tokens=sum(tokens for tokens, _ in reported),
        output_tokens=sum(tokens for _, tokens in reported),
        unreported=len(replies) - len(reported),
        cut=ends.count("length"),
        cost=None if price is None else sum(reply_cost(reply, price) for reply in replies),
    )
