"""Faults of a server: which pass, which end the run, and what is asked again."""

import json
import random
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import KEY, match, settings
from loopback import Asked, Reply, completion, failure, serving

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import RunError
from qlora_repro.judge.openai import judge_openai

Configured = Callable[..., RunConfig]
HANG = Reply(content=b"{}", delay=60)
PASSING = {
    "429": failure(429),
    "429 with Retry-After": failure(429, **{"Retry-After": "0"}),
    "500": failure(500),
    "503": failure(503),
    "reset before a reply": Reply(content=b"", send=0, headers={"Content-Length": "10"}),
    "reset in mid-reply": Reply(completion().status, completion().content, send=40),
    "truncated JSON": Reply(content=completion().content[:40]),
    "empty body": Reply(),
    "JSON that is no completion": Reply(content=b'{"choices": []}'),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_tried_again_until_the_reply_comes(
    fault: str, configured: Configured, tmp_path: Path
) -> None:
    def answer(asked: Asked) -> Reply:
        return PASSING[fault] if asked.number < 2 else completion()

    with serving(answer) as server:
        found = judge_openai([match()], settings(configured, base_url=server.url), tmp_path)
    assert [judgment.verdict for judgment in found] == ["first"]
    assert len(server.asked) == 3


def test_a_hang_ends_at_the_timeout_and_is_tried_again(
    configured: Configured, tmp_path: Path
) -> None:
    with serving(lambda asked: HANG if asked.number == 0 else completion()) as server:
        cfg = settings(configured, "client.timeout=0.2", base_url=server.url)
        found = judge_openai([match()], cfg, tmp_path)
    assert found[0].verdict == "first"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "header", [{"Retry-After": "0.4"}, {"Retry-After-Ms": "400"}], ids=["seconds", "milliseconds"]
)
def test_everybody_waits_as_long_as_the_server_asks(
    header: dict[str, str], configured: Configured, tmp_path: Path
) -> None:
    came: list[float] = []

    def answer(asked: Asked) -> Reply:
        came.append(time.monotonic())
        return failure(429, **header) if asked.number == 0 else completion()

    with serving(answer) as server:
        cfg = settings(configured, "client.concurrency=1", base_url=server.url)
        judge_openai([match(0), match(1)], cfg, tmp_path)
    assert came[1] - came[0] >= 0.4
    assert len(came) == 3


REFUSED = {
    "401": (failure(401, message=f"Incorrect API key provided: {KEY}."), "OPENAI_API_KEY"),
    "403": (failure(403), "OPENAI_API_KEY"),
    "404": (failure(404, message="no such model"), "judge.model"),
    "400": (failure(400, message="unknown field 'temperatur'"), "unknown field 'temperatur'"),
    "a 429 for want of money": (failure(429, code="insufficient_quota"), "429"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_that_stays_ends_the_run_at_the_first_try_in_a_sentence_without_the_key(
    fault: str, configured: Configured, tmp_path: Path
) -> None:
    reply, says = REFUSED[fault]
    with serving(lambda asked: reply) as server:
        cfg = settings(configured, "client.concurrency=1", base_url=server.url)
        with pytest.raises(RunError, match=re.escape(says)) as raised:
            judge_openai([match(0), match(1)], cfg, tmp_path)
    assert len(server.asked) == 1
    text = "".join(traceback.TracebackException.from_exception(raised.value).format())
    assert KEY not in text
    assert "\n" not in str(raised.value)


def test_a_server_that_never_answers_is_given_up_on_and_the_rest_is_kept(
    configured: Configured, tmp_path: Path
) -> None:
    down = {"now": True}

    def answer(asked: Asked) -> Reply:
        stuck = down["now"] and "What is 7 plus" in asked.question
        return failure(503) if stuck else completion()

    matches = [match(number) for number in range(12)]
    with serving(answer) as server:
        cfg = settings(configured, "client.attempts=3", base_url=server.url)
        with pytest.raises(RunError, match="in 3 tries, the last time for status 503"):
            judge_openai(matches, cfg, tmp_path)
        first = len(server.asked)
        down["now"] = False
        found = judge_openai(matches, cfg, tmp_path)
    assert [judgment.verdict for judgment in found] == ["first"] * 12
    answered = first - 3
    assert len(server.asked) - first == 12 - answered


def test_a_request_that_is_too_long_is_counted_and_does_not_stop_the_others(
    configured: Configured, tmp_path: Path
) -> None:
    def answer(asked: Asked) -> Reply:
        long = "What is 1 plus" in asked.question
        return failure(400, code="context_length_exceeded") if long else completion()

    with serving(answer) as server:
        cfg = settings(configured, base_url=server.url)
        for _ in range(2):
            found = judge_openai([match(0), match(1)], cfg, tmp_path)
    assert [judgment.parse for judgment in found] == ["ok", "api_error"]
    assert found[1].verdict is None
    assert len(server.asked) == 2


STAY = {  # a paid reply is kept as it is
    "empty": (completion(""), "unparsed"),
    "no text": (completion(None), "unparsed"),
    "refusal": (completion(None, refusal="I will not judge people."), "refused"),
    "wrong form": (completion("The best answer is Assistant 2."), "recovered:names_one_assistant"),
}


@pytest.mark.parametrize("case", STAY)
def test_a_reply_without_a_verdict_is_stored_named_and_never_asked_again(
    case: str, configured: Configured, tmp_path: Path
) -> None:
    reply, parse = STAY[case]
    with serving(lambda asked: reply) as server:
        cfg = settings(configured, base_url=server.url)
        for _ in range(2):
            (found,) = judge_openai([match()], cfg, tmp_path)
    assert (found.verdict, found.parse) == (None, parse)
    assert len(server.asked) == 1


def test_a_model_that_changes_within_a_run_is_reported_and_stored_with_each_verdict(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(asked: Asked) -> Reply:
        return completion(model="gpt-4-0314") if asked.number == 2 else completion()

    with serving(answer) as server:
        cfg = settings(configured, "client.concurrency=1", base_url=server.url)
        found = judge_openai([match(number) for number in range(5)], cfg, tmp_path)
    assert [judgment.model for judgment in found] == [
        *(["gpt-4-0613"] * 2),
        "gpt-4-0314",
        *(["gpt-4-0613"] * 2),
    ]
    assert {judgment.fingerprint for judgment in found} == {"fp_1"}
    assert (
        "the model changed within this run: gpt-4-0613 fp_1 (4), gpt-4-0314 fp_1 (1)"
        in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "summary.json").read_text())["changed"] is True


def test_a_thousand_judgments_with_a_fifth_of_faults_end_complete_and_none_is_paid_twice(
    configured: Configured, tmp_path: Path
) -> None:
    rng = random.Random(0)
    faults = [*(list(PASSING.values()) * 5), HANG]  # a timeout short enough for many would be hit
    paid: Counter[str] = Counter()
    broken = 0

    def answer(asked: Asked) -> Reply:
        nonlocal broken
        if rng.random() < 0.2:
            broken += 1
            return faults[broken % len(faults)]
        paid[asked.question] += 1
        return completion()

    matches = [match(number) for number in range(1000)]
    with serving(answer) as server:
        words = ("client.concurrency=64", "client.attempts=12", "client.timeout=6")
        cfg = settings(configured, *words, base_url=server.url)
        found = judge_openai(matches, cfg, tmp_path)
        again = judge_openai(matches, cfg, tmp_path)
    assert [judgment.question for judgment in found] == [str(number) for number in range(1000)]
    assert {judgment.verdict for judgment in found} == {"first"}
    assert again == found
    assert broken > 150
    assert set(paid.values()) == {1}
    assert len(paid) == 1000
    assert server.most <= 64
