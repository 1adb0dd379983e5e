"""An OpenAI-like server on loopback that does what a test tells it to, one reply a request."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    number: int  # from 0, in the order in which they came
    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def question(self) -> str:
        """The user's message: what tells one match from another."""
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Reply:
    """What to send back."""

    status: int = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    send: int | None = None  # so many bytes of the content; then the connection breaks
    delay: float = 0.0  # s


def completion(text: str | None = "Fine.\n1", **more: Any) -> Reply:
    """Return a chat completion; `more` overrides parts of it."""
    message = {"role": "assistant", "content": text, "refusal": more.pop("refusal", None)}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4-0613",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220},
    }
    return Reply(content=json.dumps(body | more).encode())


def failure(status: int, *, code: str = "", message: str = "", **headers: str) -> Reply:
    """Return an error as OpenAI words it."""
    error = {"message": message, "type": "error", "param": None, "code": code or None}
    return Reply(status, json.dumps({"error": error}).encode(), headers)


Answer = Callable[[Asked], Reply]


class Loopback:
    """What a server was asked, and what it answered well."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[Asked] = []
        self.most = 0  # requests under way at once
        self._under_way = 0
        self.url = ""

    @property
    def times(self) -> Counter[str]:
        """How often each question was asked."""
        return Counter(asked.question for asked in self.asked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        content = await _content(reader, headers)
        asked = Asked(len(self.asked), method, path, headers, content)
        self.asked.append(asked)
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        reply = self._answer(asked)
        await asyncio.sleep(reply.delay)
        self._under_way -= 1
        names = {"Content-Type": JSON, "Content-Length": str(len(reply.content))} | reply.headers
        top = [f"HTTP/1.1 {reply.status} Said", *(f"{n}: {v}" for n, v in names.items())]
        writer.write("\r\n".join([*top, "", ""]).encode())
        writer.write(reply.content[: reply.send])
        await writer.drain()
        return reply.send is None


async def _content(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    content = b""
    while size := int((await reader.readline()).strip(), 16):
        content += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return content


@contextmanager
def serving(answer: Answer) -> Iterator[Loopback]:
    """Run a server in a thread of its own; it is gone at the end."""
    loopback = Loopback(answer)
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def main() -> None:
        server = await asyncio.start_server(loopback.serve, "127.0.0.1", 0, limit=1 << 20)
        host, port = server.sockets[0].getsockname()
        loopback.url = f"http://{host}:{port}/v1"
        ready.set()
        await stop.wait()
        server.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        ready.wait()
        yield loopback
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
