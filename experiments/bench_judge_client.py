"""The judge's own overhead: many requests at once, at a server that takes 50 ms for a reply.

Ideal is the time in which so many workers could have waited for all replies, one after another.
The server is a process of its own; replies are stored and synced as in any run.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from rich.table import Table

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.config.validate import parse_config
from qlora_repro.console import say
from qlora_repro.judge.openai import judge_openai
from qlora_repro.records import Match

ROOT = Path(__file__).resolve().parents[1]
DELAY = 0.05  # s, of the server
TARGET = 1.6  # times the ideal time
WORDS_PER_ANSWER = 300  # of an answer, about those of the released ones
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "stand-in",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "The first is clearer. " * 20 + "\n1"},
        }
    ],
    "usage": {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000},
}


class Answering(asyncio.Protocol):
    """One connection: requests come one after the other, each is answered after the delay."""

    def __init__(self) -> None:
        body = json.dumps(REPLY).encode()
        self._reply = HEAD % len(body) + body
        self._came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Wait for the whole request, and then as long as a reply takes."""
        self._came += data
        head, _, body = self._came.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if length is not None and len(body) == int(length[1]):
            self._came = b""
            asyncio.get_running_loop().call_later(DELAY, self._transport.write, self._reply)


def serve(ready: Connection) -> None:
    """Answer every request after the delay; send the port once it is open."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def settings(port: int, *, concurrency: int) -> JudgeConfig:
    """Return the settings of a pairwise judge that asks the server on this port."""
    os.environ["QLORA_REPRO_ROOT"] = str(ROOT)
    overrides = [
        "judge=gpt4_pairwise",
        f"judge.base_url=http://127.0.0.1:{port}/v1",
        "judge.client.key_env=null",
        f"judge.client.concurrency={concurrency}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse_config(compose("config", overrides), written={"judge"}).judge


def match(number: int) -> Match:
    """Return one of many different matches, of a usual length."""
    return Match(
        question_id=str(number),
        question=f"Question {number}: how can I sleep better?",
        category="generic",
        lang="en",
        first="left",
        second="right",
        answer_first=f"{number} " + "Keep regular hours. " * (WORDS_PER_ANSWER // 3),
        answer_second=f"{number} " + "Avoid coffee at night. " * (WORDS_PER_ANSWER // 4),
        reference="",
    )


def measure(count: int, *, cfg: JudgeConfig) -> tuple[float, float]:
    """Return (s that so many verdicts took, s of processor time in this process)."""
    matches = [match(number) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        began, used = time.perf_counter(), time.process_time()
        judgments = judge_openai(matches, cfg, Path(folder))
        took, used = time.perf_counter() - began, time.process_time() - used
    assert [judgment.verdict for judgment in judgments] == ["first"] * count
    return took, used


def main() -> None:
    """Measure the judge so many times and compare the fastest round with the ideal time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--verdicts", type=int, default=6400)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    receiver, sender = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(sender,), daemon=True)
    server.start()
    try:
        cfg = settings(receiver.recv(), concurrency=asked.concurrency)
        measure(asked.concurrency, cfg=cfg)  # imports and connections are no part of it
        rounds = [measure(asked.verdicts, cfg=cfg) for _ in range(asked.rounds)]
    finally:
        server.terminate()
    ideal = asked.verdicts / asked.concurrency * DELAY
    show_rounds(rounds, verdicts=asked.verdicts, ideal=ideal)


def show_rounds(rounds: list[tuple[float, float]], *, verdicts: int, ideal: float) -> None:
    """Print each round's time as a multiple of the ideal one."""
    table = Table(title=f"judge overhead: {verdicts} verdicts, ideal {ideal:.2f} s")
    for heading in ("round", "s", "times the ideal", "processor ms a verdict"):
        table.add_column(heading, justify="right")
    for number, (took, used) in enumerate(rounds, 1):
        table.add_row(
            f"{number}", f"{took:.2f}", f"{took / ideal:.2f}", f"{used / verdicts * 1e3:.2f}"
        )
    say(table)
    best = min(took for took, _ in rounds) / ideal
    met = "met" if best <= TARGET else "missed"
    say(f"overhead: fastest of {len(rounds)} rounds {best:.2f}; at most {TARGET}: {met}")


if __name__ == "__main__":
    main()
