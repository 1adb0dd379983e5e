"""How fast a server is asked, on a clock that jumps to the next event."""

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from asking import match, settings
from hypothesis import given
from hypothesis import strategies as st
from loopback import Reply, completion, serving

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.judge.api_client import RateLimits
from qlora_repro.judge.openai import judge_openai
from qlora_repro.judge.protocol import check_settings

Configured = Callable[..., RunConfig]


class JumpingSelector(selectors.SelectSelector):
    """Waits for no time: the clock moves on instead."""

    now = 0.0  # s

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout + 1e-9 if timeout else 0.0  # a rounded step must still be one
        return super().select(0)


def run_on_jumping_clock(main: Coroutine[Any, Any, None]) -> None:
    selector = JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


def sent_at(limits: Callable[[], RateLimits], tokens: list[int]) -> list[tuple[float, int]]:
    """Return (s, tokens) of each request, all of which come at once, in the order of sending."""
    sent: list[tuple[float, int]] = []

    async def main() -> None:
        limit = limits()

        async def send(count: int) -> None:
            await limit.wait(count)
            heapq.heappush(sent, (asyncio.get_running_loop().time(), count))

        await asyncio.gather(*map(send, tokens))

    run_on_jumping_clock(main())
    return sorted(sent)


@hypothesis.settings(deadline=None, max_examples=30)
@given(
    requests=st.integers(1, 5000),
    tokens=st.lists(st.integers(1, 3000), min_size=2, max_size=12),
    tokens_per_minute=st.integers(5000, 90000),
)
def test_no_minute_holds_more_than_the_limits(
    requests: int, tokens: list[int], tokens_per_minute: int
) -> None:
    sent = sent_at(lambda: RateLimits(requests=requests, tokens=tokens_per_minute), tokens)
    assert sorted(count for _, count in sent) == sorted(tokens)
    for number, (start, _) in enumerate(sent):
        minute = [count for at, count in sent[number:] if at - start < 60 - 1e-6]
        assert len(minute) <= requests
        # the first of them may have waited for its tokens in the minute before
        assert sum(minute[1:]) <= tokens_per_minute * (1 + 1e-6)


def test_requests_are_spread_evenly_and_as_fast_as_allowed() -> None:
    sent = sent_at(lambda: RateLimits(requests=1200, tokens=None), [1] * 8)
    assert [at for at, _ in sent] == pytest.approx([0.05 * k for k in range(8)], abs=1e-6)
    sent = sent_at(lambda: RateLimits(requests=None, tokens=61_000), [1000] * 8)
    assert [at for at, _ in sent] == pytest.approx([1.0 * k for k in range(8)], abs=1e-6)


def test_a_pause_holds_everybody_back() -> None:
    async def main() -> None:
        limits = RateLimits(requests=None, tokens=None)
        limits.pause(30)
        limits.pause(10)
        await asyncio.gather(limits.wait(0), limits.wait(0))
        assert asyncio.get_running_loop().time() == pytest.approx(30)

    run_on_jumping_clock(main())


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_every_try_waits_for_the_limits_that_are_set(
    limit: str, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[tuple[int | None, int | None, float]] = []

    async def wait(self: RateLimits, tokens: float) -> None:
        waited.append((self._set[0], self._set[1], tokens))

    def init(self: RateLimits, *, requests: int | None, tokens: int | None) -> None:
        self._set = requests, tokens

    monkeypatch.setattr(RateLimits, "wait", wait)
    monkeypatch.setattr(RateLimits, "__init__", init)
    with serving(lambda asked: Reply(500) if asked.number < 2 else completion()) as server:
        cfg = settings(configured, f"client.{limit}=90", base_url=server.url)
        judge_openai([match(number) for number in range(8)], cfg, tmp_path)
    assert len(waited) == len(server.asked) == 10
    limits = (90, None) if limit.startswith("requests") else (None, 90)
    assert {pair for *pair, _ in map(list, waited) for pair in [tuple(pair)]} == {limits}
    assert all((tokens > 1024) == limit.startswith("tokens") for *_, tokens in waited)


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
        check_settings(configured(f"judge={name}").judge)
