"""A server that is not ours: `transformers serve` with the embedded model, over HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from asking import KEY, match, settings

from qlora_repro.config.schema import RunConfig
from qlora_repro.judge.openai import judge_openai
from qlora_repro.judge.replies import FILE
from qlora_repro.model.embedded import embedded_checkpoint

pytestmark = pytest.mark.long

PATIENCE = 120  # s: importing torch on a machine that is busy
COMMAND = Path(sys.executable).with_name("transformers")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start the server on a free port; give (its address, the model's name)."""
    model = str(embedded_checkpoint())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(COMMAND), *words, "--dtype", "float32"],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        ends = time.monotonic() + PATIENCE
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except (URLError, ConnectionError):
        return False


def test_pairs_are_judged_by_a_real_server_and_not_asked_again(
    server: tuple[str, str],
    configured: Callable[..., RunConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base_url, model = server
    words = (f"model={model}", "request={temperature: 0, max_tokens: 8}", "client.timeout=60")
    cfg = settings(configured, *words, "client.concurrency=2", base_url=base_url)
    pair = match(answer_first="It is 1.", answer_second="I do not know.")
    swapped = match(answer_first="I do not know.", answer_second="It is 1.")
    found = judge_openai([pair, swapped], cfg, tmp_path)
    said = capsys.readouterr().out
    assert [judgment.question for judgment in found] == ["0", "0"]
    assert {judgment.model.partition("@")[0] for judgment in found} == {model}
    assert found[0].reply != found[1].reply
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    texts = {row["key"]: row["response"]["choices"][0]["message"]["content"] for row in rows}
    assert all(texts[judgment.reply].strip() for judgment in found)  # the model wrote something
    assert all(0 < row["response"]["usage"]["completion_tokens"] <= 8 for row in rows)
    assert "2 replies: " in said
    assert KEY not in said
    dead = settings(configured, *words, base_url=base_url)
    assert judge_openai([pair, swapped], dead, tmp_path) == found
    assert "2 of them answered before; to ask: 0" in capsys.readouterr().out
