"""The key: read from the environment, sent to the server, and nowhere else."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from asking import KEY, match, settings
from judging import start
from loopback import completion, failure, serving

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.judge.api_client import ApiClient
from qlora_repro.judge.openai import judge_openai

Configured = Callable[..., RunConfig]


REPEATS_IT = [  # what the server says, in turn
    completion(),
    failure(500, message=KEY),
    failure(400, message=f"bad header Bearer {KEY}"),
]


def test_the_key_is_in_no_output_log_result_or_command_line(
    configured: Configured, tmp_path: Path
) -> None:
    with serving(lambda asked: replace(REPEATS_IT[asked.number], delay=0.05)) as server:
        cfg = settings(configured, "client.concurrency=1", base_url=server.url)
        process = start([match(0), match(1)], cfg, tmp_path, OPENAI_LOG="debug")
        while not server.asked:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        seen = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        out, err = process.communicate()
    assert [asked.headers["authorization"] for asked in server.asked] == [f"Bearer {KEY}"] * 3
    assert "bad header Bearer [key]" in err
    assert "HTTP Request" in err  # the log was on
    assert KEY.encode() not in seen
    assert KEY not in out + err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_the_key_is_in_no_log_record_and_in_no_text_of_the_client(
    configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, base_url=server.url)
        found = judge_openai([match()], cfg, tmp_path)
    assert KEY not in caplog.text
    assert KEY not in repr(found) + repr(cfg) + repr(ApiClient(cfg))


def test_without_a_key_nothing_is_sent_and_the_variable_is_named(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving(lambda asked: completion()) as server:
        with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
            judge_openai([match()], settings(configured, base_url=server.url), tmp_path)
        assert server.asked == []
        local = settings(configured, "client.key_env=null", base_url=server.url)
        assert judge_openai([match()], local, tmp_path)[0].verdict == "first"


def test_another_variable_can_hold_the_key(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-other")
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, "client.key_env=MY_KEY", base_url=server.url)
        judge_openai([match()], cfg, tmp_path)
    assert server.asked[0].headers["authorization"] == "Bearer sk-other"


@pytest.mark.parametrize(
    "address", ["http://me:secret@127.0.0.1/v1", "http://127.0.0.1/v1?k=secret"]
)
def test_an_address_with_a_password_is_refused_without_repeating_it(
    address: str, configured: Configured, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        judge_openai([match()], settings(configured, base_url=f"'{address}'"), tmp_path)
    assert "secret" not in str(raised.value)
