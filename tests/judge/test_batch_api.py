"""The Batch API, against a stand-in on loopback: nothing is submitted twice, nothing is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
from asking import match, settings
from batch_api import BatchApi
from loopback import Reply, completion, failure, serving

from qlora_repro.config.schema import JudgeConfig, RunConfig
from qlora_repro.errors import RunError
from qlora_repro.judge import batch_api as batch_module
from qlora_repro.judge.openai import judge_openai

Configured = Callable[..., RunConfig]
MATCHES = [match(number) for number in range(6)]
ALL = [str(number) for number in range(6)]
EXPIRED = Reply(0)


def batching(configured: Configured, url: str, *words: str) -> JudgeConfig:
    return settings(configured, "mode=batch", *words, base_url=url)


def test_a_batch_is_written_uploaded_polled_and_collected(
    configured: Configured, tmp_path: Path
) -> None:
    api = BatchApi(lambda question, number: completion(f"{int(question) % 3 + 1}"), polls=3)
    with serving(api) as server:
        cfg = batching(configured, server.url)
        found = judge_openai(MATCHES, cfg, tmp_path)
        asked = len(server.asked)
        assert judge_openai(MATCHES, cfg, tmp_path) == found
    assert [judgment.verdict for judgment in found] == ["first", "second", "tie"] * 2
    assert api.submitted == [ALL]
    assert api.batches[0]["endpoint"] == "/v1/chat/completions"
    assert api.batches[0]["polls"] == 4
    assert len(server.asked) == asked


def test_what_failed_in_passing_goes_into_a_new_batch_and_only_that(
    configured: Configured, tmp_path: Path
) -> None:
    faults = {"1": failure(429), "3": failure(500), "4": EXPIRED}

    def outcome(question: str, number: int) -> Reply:
        return faults.get(question, completion()) if number == 0 else completion()

    api = BatchApi(outcome)
    with serving(api) as server:
        found = judge_openai(MATCHES, batching(configured, server.url), tmp_path)
    assert api.submitted == [ALL, ["1", "3", "4"]]
    assert {judgment.verdict for judgment in found} == {"first"}


def test_a_request_that_is_too_long_is_counted_and_not_submitted_again(
    configured: Configured, tmp_path: Path
) -> None:
    long = failure(400, code="context_length_exceeded")
    api = BatchApi(lambda question, number: long if question == "2" else completion())
    with serving(api) as server:
        found = judge_openai(MATCHES, batching(configured, server.url), tmp_path)
    assert [judgment.parse for judgment in found] == ["ok", "ok", "api_error", "ok", "ok", "ok"]
    assert api.submitted == [ALL]


def test_an_open_batch_is_taken_up_by_its_id_after_a_restart(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = BatchApi(lambda question, number: completion())
    with serving(api) as server:
        cfg = batching(configured, server.url)
        with monkeypatch.context() as patch:

            async def killed(self: object, name: str) -> None:
                raise KeyboardInterrupt

            patch.setattr(batch_module.BatchRunner, "_collect", killed)
            with pytest.raises(KeyboardInterrupt):
                judge_openai(MATCHES, cfg, tmp_path)
        found = judge_openai(MATCHES, cfg, tmp_path)
    assert api.submitted == [ALL]
    assert {judgment.verdict for judgment in found} == {"first"}


def test_an_open_batch_is_collected_whole_also_by_a_run_that_asks_for_less(
    configured: Configured, tmp_path: Path
) -> None:
    api = BatchApi(lambda question, number: completion())
    with serving(api) as server:
        cfg = batching(configured, server.url)
        api.lose_creation = True
        with pytest.raises(RunError):
            judge_openai(MATCHES, cfg, tmp_path)
        api.lose_creation = False
        judge_openai(MATCHES[:2], cfg, tmp_path)
        judge_openai(MATCHES, cfg, tmp_path)
    assert api.submitted == [ALL]


def test_a_batch_whose_creation_was_never_confirmed_is_found_by_its_mark(
    configured: Configured, tmp_path: Path
) -> None:
    api = BatchApi(lambda question, number: completion())
    api.lose_creation = True
    with serving(api) as server:
        cfg = batching(configured, server.url)
        with pytest.raises(RunError, match="broken connection"):
            judge_openai(MATCHES, cfg, tmp_path)
        api.lose_creation = False
        found = judge_openai(MATCHES, cfg, tmp_path)
    assert api.submitted == [ALL]
    assert len(found) == 6


def test_a_batch_that_never_came_to_be_is_made_anew(configured: Configured, tmp_path: Path) -> None:
    api = BatchApi(lambda question, number: completion())
    refusing = serving(lambda asked: failure(400, message="no"))
    with refusing as server, pytest.raises(RunError, match="status 400: no"):
        judge_openai(MATCHES, batching(configured, server.url), tmp_path)
    with serving(api) as server:
        judge_openai(MATCHES, batching(configured, server.url), tmp_path)
    assert api.submitted == [ALL]


def test_a_batch_that_the_server_refuses_ends_the_run_and_keeps_what_was_answered(
    configured: Configured, tmp_path: Path
) -> None:
    api = BatchApi(lambda question, number: failure(400, message="temperature is not taken"))
    with serving(api) as server, pytest.raises(RunError, match="temperature is not taken"):
        judge_openai(MATCHES, batching(configured, server.url), tmp_path)
    assert len(api.submitted) == 1


def test_batches_that_bring_nothing_are_given_up_on(configured: Configured, tmp_path: Path) -> None:
    api = BatchApi(lambda question, number: failure(500))
    with serving(api) as server:
        cfg = batching(configured, server.url, "client.attempts=2")
        with pytest.raises(RunError, match="2 batches in a row"):
            judge_openai(MATCHES, cfg, tmp_path)
    assert api.submitted == [ALL, ALL]


def test_batches_are_no_larger_than_the_server_takes(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MAX_REQUESTS", 4)
    api = BatchApi(lambda question, number: completion())
    with serving(api) as server:
        judge_openai(MATCHES, batching(configured, server.url), tmp_path)
    assert api.submitted == [ALL[:4], ALL[4:]]


def test_a_batch_never_holds_more_than_the_cap_allows(
    configured: Configured, tmp_path: Path
) -> None:
    used = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    api = BatchApi(lambda question, number: completion(usage=used))
    with serving(api) as server:
        cfg = batching(configured, server.url, "max_cost=0.2", "estimate.reply_tokens=20")
        judge_openai(MATCHES, cfg, tmp_path)
    assert [len(batch) for batch in api.submitted] == [3, 3]
