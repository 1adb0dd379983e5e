"""How a chat request travels: compressed, redirected, by a proxy."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from asking import KEY, match, settings
from loopback import Asked, Reply, completion, serving

from qlora_repro.config.schema import RunConfig
from qlora_repro.judge.openai import judge_openai

Configured = Callable[..., RunConfig]


def packed(asked: Asked) -> Reply:
    reply = completion()
    return replace(
        reply, content=gzip.compress(reply.content), headers={"Content-Encoding": "gzip"}
    )


def test_a_compressed_reply_is_read(configured: Configured, tmp_path: Path) -> None:
    with serving(packed) as server:
        found = judge_openai([match()], settings(configured, base_url=server.url), tmp_path)
    assert found[0].verdict == "first"
    assert "gzip" in server.asked[0].headers["accept-encoding"]


def test_a_redirect_is_followed_with_the_whole_request(
    configured: Configured, tmp_path: Path
) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path.startswith("/moved"):
            return completion()
        return Reply(307, headers={"Location": "/moved/v1/chat/completions"})

    with serving(answer) as server:
        found = judge_openai([match()], settings(configured, base_url=server.url), tmp_path)
    assert found[0].verdict == "first"
    assert server.asked[-1].path == "/moved/v1/chat/completions"
    assert server.asked[-1].content == server.asked[0].content
    assert server.asked[-1].headers["authorization"] == f"Bearer {KEY}"


def test_a_proxy_that_the_environment_names_is_asked(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda asked: completion()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        cfg = settings(configured, base_url="http://judge.invalid/v1")
        found = judge_openai([match()], cfg, tmp_path)
    assert found[0].verdict == "first"
    assert proxy.asked[0].path == "http://judge.invalid/v1/chat/completions"
