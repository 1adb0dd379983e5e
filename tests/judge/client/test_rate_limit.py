"""How fast a server is asked."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from asking import match, settings
from hypothesis import given
from hypothesis import strategies as st
from loopback import Asked, Reply, completion, serving

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.judge.client.prices import estimated, token_counter
from qlora_repro.judge.client.request import check, request
from qlora_repro.judge.client.server import Pace
from qlora_repro.judge.openai import judge_openai

Configured = Callable[..., RunConfig]


@given(
    per_minute=st.integers(1, 5000),
    tokens=st.lists(st.integers(1, 3000), min_size=2, max_size=40),
    tokens_per_minute=st.integers(1000, 90000),
)
def test_no_minute_holds_more_than_the_limits(
    per_minute: int, tokens: list[int], tokens_per_minute: int
) -> None:
    pace = Pace(requests=per_minute, tokens=tokens_per_minute)
    places = [pace.reserve(count, now=100.0) for count in tokens]
    for first in range(len(places)):
        within = [n for n in range(first, len(places)) if places[n] - places[first] < 60 - 1e-6]
        assert len(within) <= per_minute
        # the last of them may reach into the next minute
        assert sum(tokens[n] for n in within[:-1]) <= tokens_per_minute


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_requests_keep_the_pace_that_is_set(
    limit: str, configured: Configured, tmp_path: Path
) -> None:
    came: list[float] = []

    def answer(asked: Asked) -> Reply:
        came.append(time.monotonic())
        return completion()

    with serving(answer) as server:
        cfg = settings(configured, base_url=server.url)
        each = estimated(request(match(), cfg), token_counter(cfg)[0]) + 1024
        perminute = 1200 if limit.startswith("requests") else 1200 * each
        setattr(cfg.client, limit, perminute)
        judge_openai([match(number) for number in range(8)], cfg, tmp_path)
    assert came[-1] - came[0] >= 7 * 0.05 * 0.9


def test_no_more_requests_are_under_way_than_allowed(
    configured: Configured, tmp_path: Path
) -> None:
    with serving(lambda asked: replace(completion(), delay=0.02)) as server:
        cfg = settings(configured, "client.concurrency=7", base_url=server.url)
        judge_openai([match(number) for number in range(40)], cfg, tmp_path)
    assert server.most == 7


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=null"], "names no model"),
        (["protocol=score11"], "score10"),
        (["mode=later"], "online, batch"),
        (["+request.n=3"], "judge.request sets n"),
        (["client.concurrency=0"], "judge.client.concurrency is 0, and must be at least 1"),
        (["max_cost=nan"], "judge.max_cost is nan"),
        (["base_url=localhost"], "must be like http://localhost:8000/v1"),
        (["structured=true", "prompts=mine.jsonl"], "drop one of the two"),
        (["prompts=mine.jsonl"], "cannot be read"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_sent(
    words: list[str], says: str, configured: Configured, tmp_path: Path
) -> None:
    written = [f"judge.{word}" if word[0] != "+" else f"+judge.{word[1:]}" for word in words]
    cfg = configured("judge=gpt4_pairwise", *written).judge
    with pytest.raises(ConfigError, match=says):
        judge_openai([match()], cfg, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_both_shipped_judges_pass_their_own_check(configured: Configured) -> None:
    for name in ("gpt4_pairwise", "gpt4_score"):
        check(configured(f"judge={name}").judge)
