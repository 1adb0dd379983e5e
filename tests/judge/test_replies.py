"""Processes that are killed, and processes that meet: no stored reply is asked for again."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from asking import match, settings
from judging import start
from loopback import Asked, Reply, completion, serving

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import StoreError
from qlora_repro.judge.openai import judge_openai
from qlora_repro.judge.replies import FILE

Configured = Callable[..., RunConfig]
SLOW = replace(completion(), delay=0.02)
MATCHES = [match(number) for number in range(200)]


def stored(folder: Path) -> Counter[str]:
    """Return the questions whose replies lie whole in a folder."""
    lines = (folder / FILE).read_bytes().split(b"\n")[:-1]
    return Counter(json.loads(line)["request"]["messages"][-1]["content"] for line in lines)


def test_a_process_that_is_killed_loses_no_stored_reply_and_pays_for_none_twice(
    configured: Configured, tmp_path: Path
) -> None:
    with serving(lambda asked: SLOW) as server:
        cfg = settings(configured, "client.concurrency=4", base_url=server.url)
        process = start(MATCHES, cfg, tmp_path)
        while len(server.asked) < 80:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = stored(tmp_path)
        before = server.times
        found = judge_openai(MATCHES, cfg, tmp_path)
        after = server.times - before
    assert 60 < len(kept) < 200
    assert len(before) - len(kept) <= 4  # what was under way
    assert not set(after) & set(kept)
    assert set(kept) | set(after) == set(server.times)
    assert set(stored(tmp_path).values()) == {1}
    assert {judgment.verdict for judgment in found} == {"first"}
    assert len(found) == 200


@pytest.mark.parametrize("cut", [1, 17, 400])
def test_a_torn_last_line_is_dropped_said_and_asked_again(
    cut: int, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, "client.concurrency=1", base_url=server.url)
        judge_openai(MATCHES[:3], cfg, tmp_path)
        whole = (tmp_path / FILE).read_bytes()
        (tmp_path / FILE).write_bytes(whole[:-cut])
        judge_openai(MATCHES[:3], cfg, tmp_path)
    assert (tmp_path / FILE).read_bytes() == whole
    assert "was never finished; dropped" in capsys.readouterr().out
    assert sorted(server.times.values()) == [1, 1, 2]


def test_a_file_that_something_else_wrote_to_is_refused(
    configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text("no json\n")
    with pytest.raises(StoreError, match="no line that is JSON"):
        judge_openai([match()], settings(configured), tmp_path)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_reply_with_a_flipped_bit_is_named_and_asked_anew(
    place: float, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, "client.concurrency=1", base_url=server.url)
        before = judge_openai(MATCHES[:3], cfg, tmp_path)
        content = bytearray((tmp_path / FILE).read_bytes())
        start = content.index(b"\n") + 1
        content[start + int(place * (content.index(b"\n", start) - start))] ^= 1
        (tmp_path / FILE).write_bytes(content)
        assert judge_openai(MATCHES[:3], cfg, tmp_path) == before
        assert judge_openai(MATCHES[:3], cfg, tmp_path) == before  # and once is enough
    assert "line 2 holds other bytes than were written" in capsys.readouterr().out
    assert sorted(server.times.values()) == [1, 1, 2]


@pytest.mark.parametrize("line", ["[1]", '{"key": "a"}', '{"key": 1, "response": {}}', "5"])
def test_a_line_that_is_no_reply_is_named_and_left_out(
    line: str, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, base_url=server.url)
        judge_openai([match()], cfg, tmp_path)
        with (tmp_path / FILE).open("a") as file:
            file.write(line + "\n")
        judge_openai([match()], cfg, tmp_path)
    assert "left out" in capsys.readouterr().out
    assert list(server.times.values()) == [1]


def test_of_two_replies_to_a_request_the_first_counts(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, base_url=server.url)
        before = judge_openai([match()], cfg, tmp_path)
        row = json.loads((tmp_path / FILE).read_bytes())
        del row["sha256"]  # as an earlier version wrote lines
        row["response"]["choices"] = []
        with (tmp_path / FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        assert judge_openai([match()], cfg, tmp_path) == before
    assert "has two replies; the first counts" in capsys.readouterr().out


def test_two_processes_on_one_folder_ask_each_question_once(
    configured: Configured, tmp_path: Path
) -> None:
    def answer(asked: Asked) -> Reply:
        return SLOW

    with serving(answer) as server:
        cfg = settings(configured, "client.concurrency=4", base_url=server.url)
        one = start(MATCHES[:60], cfg, tmp_path)
        while not server.asked:
            time.sleep(0.005)
        judge_openai(MATCHES[:60], cfg, tmp_path)
        assert one.wait() == 0, one.communicate()
        one.communicate()
    assert set(server.times.values()) == {1}
    assert set(stored(tmp_path).values()) == {1}
    assert len(server.times) == 60
