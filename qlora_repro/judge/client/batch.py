"""OpenAI's Batch API: requests as a file, replies within a day, at a share of the price.

One batch is open at a time. What it holds is on disk before it is created and its id right after:
a process that is killed finds it again, by its id or by the mark in its metadata, and submits
nothing twice. What a batch left unanswered for a passing reason goes into the next.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from openai.types import Batch

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.console import say
from qlora_repro.errors import RunError
from qlora_repro.judge.client.online import REJECTED, Asking
from qlora_repro.judge.client.replies import Journal
from qlora_repro.judge.client.server import ONE_REQUEST, PASSING, SHOWN, LostReply, whole

FILE = "batches.jsonl"
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MARK = "qlora_repro"  # the key in a batch's metadata
MOST_REQUESTS = 50_000  # that OpenAI takes in one batch
MOST_BYTES = 100_000_000  # half of what it takes
ENDED = ("completed", "expired", "cancelled", "failed")
Bodies = Mapping[str, dict[str, Any]]


async def ask_in_batches(bodies: Bodies, asking: Asking, cfg: JudgeConfig, folder: Path) -> None:
    """Ask what is not stored, batch after batch, until all is answered.

    RunError when `judge.client.attempts` batches in a row brought no reply.
    """
    journal = Journal(folder / FILE)
    batches = Batches(bodies, asking, cfg, journal)
    try:
        in_vain = 0
        while left := batches.left():
            if in_vain == cfg.client.attempts:
                raise RunError(
                    f"{in_vain} batches in a row at {cfg.base_url} left {len(left)} requests "
                    "unanswered; the same command tries them again"
                )
            before = len(asking.replies)
            await batches.next(left)
            in_vain = 0 if len(asking.replies) > before else in_vain + 1
    finally:
        journal.close()


class Batches:
    """The batches of one folder, as its journal has them."""

    def __init__(self, bodies: Bodies, asking: Asking, cfg: JudgeConfig, journal: Journal) -> None:
        self._bodies = bodies
        self._asking = asking
        self._cfg = cfg
        self._journal = journal
        self._events = list(journal.rows)

    def left(self) -> list[str]:
        """Return the keys of requests without a reply."""
        return [key for key in self._bodies if key not in self._asking.replies]

    async def next(self, left: list[str]) -> None:
        """Collect the batch that an earlier process left, or else make and collect one."""
        unfinished = await self._unfinished()
        if unfinished is not None:
            say(f"batch {unfinished} was submitted before; its replies are collected")
            await self._collect(unfinished)
            return
        keys, bound = self._fitting(left)
        await self._asking.budget.reserve(bound)
        try:
            await self._collect(await self._submit(keys))
        finally:
            self._asking.budget.settle(bound, cost=0.0)  # each reply's cost was added as it came

    async def _note(self, **event: Any) -> None:
        self._events.append(event)
        await self._journal.append(json.dumps(event).encode())

    async def _unfinished(self) -> str | None:
        """Return the id of a batch that was created and not collected."""
        for event in self._events:
            mark = event["mark"]
            later = {e["event"]: e for e in self._events if e["mark"] == mark}
            if event["event"] != "intended" or "collected" in later:
                continue
            if "created" in later:
                return str(later["created"]["id"])
            found = await self._marked(mark)
            if found is not None:
                await self._note(event="created", mark=mark, id=found)
                return found
            await self._note(event="collected", mark=mark)  # it never came to be
        return None

    async def _marked(self, mark: str) -> str | None:
        """Return the id of the batch with this mark, if the server has one."""

        async def search() -> str | None:
            async for batch in self._asking.server.client.batches.list(limit=100):
                if (batch.metadata or {}).get(MARK) == mark:
                    return batch.id
            return None

        found: str | None = await self._asking.server.patiently(search)
        return found

    def _fitting(self, left: list[str]) -> tuple[list[str], float]:
        """Return as many requests as one batch may have, and the most USD that they can cost."""
        keys: list[str] = []
        size, bound = 0, 0.0
        budget = self._asking.budget
        for key in left[:MOST_REQUESTS]:
            more = budget.bound(self._bodies[key])
            size += len(self._line(key))
            if keys and (size > MOST_BYTES or not budget.fits(bound + more)):
                break
            keys.append(key)
            bound += more
        return keys, bound

    def _line(self, key: str) -> bytes:
        row = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": self._bodies[key]}
        return json.dumps(row).encode() + b"\n"

    async def _submit(self, keys: list[str]) -> str:
        server, mark = self._asking.server, uuid.uuid4().hex
        content = b"".join(map(self._line, keys))
        await self._note(event="intended", mark=mark, requests=len(keys))

        async def upload() -> Any:
            return await server.client.files.create(
                file=("requests.jsonl", content), purpose="batch"
            )

        file = await server.patiently(upload)

        async def create() -> Batch:
            return await server.client.batches.create(
                input_file_id=file.id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={MARK: mark},
            )

        # Tried once: a lost reply would make a second batch, and a restart finds the first
        batch: Batch = await server.patiently(create, attempts=1)
        await self._note(event="created", mark=mark, id=batch.id)
        say(f"batch {batch.id}: {len(keys)} requests submitted")
        return batch.id

    async def _collect(self, name: str) -> None:
        """Wait for a batch to end and store what it brought."""
        server = self._asking.server

        async def retrieve() -> Batch:
            return await server.client.batches.retrieve(name)

        batch: Batch = await server.patiently(retrieve)
        while batch.status not in ENDED:
            await server.rest(self._cfg.client.poll)
            batch = await server.patiently(retrieve)
        refused = None
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            refused = await self._store(await self._content(file)) or refused
        mark = next(e["mark"] for e in self._events if e.get("id") == name)
        await self._note(event="collected", mark=mark)
        if batch.status == "failed":
            refused = "; ".join(str(e.message) for e in (batch.errors and batch.errors.data) or [])
        if refused is not None:
            said = " ".join(server.clean(refused).split())[:SHOWN]
            raise RunError(
                f"{self._cfg.base_url} will not take such a batch ({said or batch.status}); check "
                "judge.model and the fields of judge.request"
            )

    async def _content(self, file: str) -> str:
        async def download() -> str:
            return (await self._asking.server.client.files.content(file)).text

        text: str = await self._asking.server.patiently(download)
        return text

    async def _store(self, content: str) -> str | None:
        """Store a file's replies; return why the server refuses such requests, if it does."""
        refused = None
        for line in content.splitlines():
            row = json.loads(line)
            key, response = row["custom_id"], row.get("response") or {}
            if key in self._asking.replies:
                continue
            body = self._bodies.get(key, {})  # an earlier run may have asked for other matches
            reply, why = _reply(response)
            refused = why or refused
            if reply is None:
                continue
            budget = self._asking.budget
            budget.settle(
                0.0, cost=budget.cost(reply, fallback=budget.bound(body) if body else 0.0)
            )
            await self._asking.replies.put(key, json.dumps(body).encode(), reply)
            self._asking.on_reply()
        return refused


def _reply(response: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Return (the reply to store, why such requests are refused); neither: try again."""
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            return whole(body), None
        except LostReply:
            return None, None
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    if error.get("code") in ONE_REQUEST:
        return {REJECTED: str(error["code"])}, None
    if status is None or status in PASSING or status >= 500:
        return None, None
    return None, f"status {status}: {error.get('message', '')}"
