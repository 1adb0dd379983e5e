"""OpenAI's Batch API: requests as a file, replies within a day, at a share of the price.

One batch is open at a time. What it holds is on disk before it is created and its id right after:
a process that is killed finds it again, by its id or by the token in its metadata, and submits
nothing twice. What a batch left unanswered for a passing reason goes into the next.
"""

import asyncio
import json
import uuid
from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

from openai.types import Batch

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.console import say
from qlora_repro.errors import RunError
from qlora_repro.judge.api_client import (
    REJECTED,
    SINGLE_REQUEST_CODES,
    TRANSIENT_STATUSES,
    InvalidCompletion,
    RequestContext,
    check_completion,
)
from qlora_repro.judge.replies import Journal

FILE = "batches.jsonl"
METADATA_KEY = "qlora_repro"
MAX_REQUESTS = 50_000  # that OpenAI takes in one batch
MAX_BYTES = 100_000_000  # half of what it takes
FINAL_STATUSES = ("completed", "expired", "cancelled", "failed")


class BatchEvent(StrEnum):
    """What has happened to a batch, as its journal has it."""

    INTENDED = "intended"
    CREATED = "created"
    COLLECTED = "collected"


async def complete_in_batches(
    bodies: Mapping[str, dict[str, Any]], context: RequestContext, cfg: JudgeConfig, folder: Path
) -> None:
    """Ask for every completion, batch after batch, until all requests are answered.

    Raises:
        RunError: the server refuses such requests, or `judge.client.attempts` batches in a row
            brought no reply.
    """
    with closing(Journal(folder / FILE)) as journal:
        runner = BatchRunner(bodies, context, cfg, journal)
        n_empty = 0
        while unanswered := [key for key in bodies if key not in context.replies]:
            if n_empty == cfg.client.attempts:
                raise RunError(
                    f"{n_empty} batches in a row at {cfg.base_url} left {len(unanswered)} requests "
                    "unanswered; the same command tries them again"
                )
            n_before = len(context.replies)
            await runner.run_next(unanswered)
            n_empty = 0 if len(context.replies) > n_before else n_empty + 1


class BatchRunner:
    """Submits and collects the batches of one folder, as its journal has them."""

    def __init__(
        self,
        bodies: Mapping[str, dict[str, Any]],
        context: RequestContext,
        cfg: JudgeConfig,
        journal: Journal,
    ) -> None:
        self._bodies = bodies
        self._context = context
        self._client = context.client
        self._sdk = context.client.sdk
        self._cfg = cfg
        self._journal = journal

    async def run_next(self, unanswered: list[str]) -> None:
        """Collect the batch that an earlier process left, or else submit and collect one."""
        open_batch = await self._find_open_batch()
        if open_batch is not None:
            say(f"batch {open_batch} was submitted before; its replies are collected")
            await self._collect(open_batch)
            return
        keys, max_cost = self._select_requests(unanswered)
        await self._context.budget.reserve(max_cost)
        try:
            await self._collect(await self._submit(keys))
        finally:
            self._context.budget.settle(max_cost, cost=0.0)  # replies were counted as they came

    async def _record(self, event: BatchEvent, mark: str, **values: Any) -> None:
        row = {"event": event, "mark": mark, **values}
        self._journal.rows.append(row)
        await self._journal.append(json.dumps(row).encode())

    async def _find_open_batch(self) -> str | None:
        """Return the id of a batch that was created and not collected."""
        batches: dict[str, dict[str, Any]] = {}
        for row in self._journal.rows:
            batches.setdefault(row["mark"], {})[row["event"]] = row
        for mark, events in batches.items():
            if BatchEvent.COLLECTED in events:
                continue
            if BatchEvent.CREATED in events:
                return str(events[BatchEvent.CREATED]["id"])
            batch_id = await self._client.run(self._search_batch(mark))
            if batch_id is not None:
                await self._record(BatchEvent.CREATED, mark, id=batch_id)
                return batch_id
            await self._record(BatchEvent.COLLECTED, mark)  # it was never created
        return None

    async def _search_batch(self, mark: str) -> str | None:
        async for batch in self._sdk.batches.list(limit=100):
            if (batch.metadata or {}).get(METADATA_KEY) == mark:
                return batch.id
        return None

    def _select_requests(self, unanswered: list[str]) -> tuple[list[str], float]:
        """Return as many requests as one batch may have, and the most USD that they can cost."""
        keys: list[str] = []
        size, total = 0, 0.0
        budget = self._context.budget
        for key in unanswered[:MAX_REQUESTS]:
            max_cost = budget.max_cost(self._bodies[key])
            size += len(self._request_line(key))
            if keys and (size > MAX_BYTES or not budget.has_room(total + max_cost)):
                break
            keys.append(key)
            total += max_cost
        return keys, total

    def _request_line(self, key: str) -> bytes:
        row = {
            "custom_id": key,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": self._bodies[key],
        }
        return json.dumps(row).encode() + b"\n"

    async def _submit(self, keys: list[str]) -> str:
        """Upload the requests and create a batch of them; return its id."""
        mark = uuid.uuid4().hex
        await self._record(BatchEvent.INTENDED, mark, requests=len(keys))
        content = b"".join(map(self._request_line, keys))
        file = await self._client.run(
            self._sdk.files.create(file=("requests.jsonl", content), purpose="batch")
        )
        # Tried once: a lost reply would make a second batch, and a restart finds the first
        batch = await self._client.run(
            self._sdk.with_options(max_retries=0).batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={METADATA_KEY: mark},
            )
        )
        await self._record(BatchEvent.CREATED, mark, id=batch.id)
        say(f"batch {batch.id}: {len(keys)} requests submitted")
        return batch.id

    async def _collect(self, batch_id: str) -> None:
        """Wait for a batch to end and store its replies."""
        batch = await self._retrieve(batch_id)
        while batch.status not in FINAL_STATUSES:
            await asyncio.sleep(self._cfg.client.poll)
            batch = await self._retrieve(batch_id)
        refusal = None
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            file = await self._client.run(self._sdk.files.content(file_id))
            refusal = await self._store_replies(file.text) or refusal
        mark = next(row["mark"] for row in self._journal.rows if row.get("id") == batch_id)
        await self._record(BatchEvent.COLLECTED, mark)
        if batch.status == "failed":
            errors = (batch.errors and batch.errors.data) or []
            refusal = "; ".join(str(error.message) for error in errors)
        if refusal is not None:
            raise RunError(
                f"{self._cfg.base_url} will not take such a batch "
                f"({self._client.clean(refusal) or batch.status}); check judge.model and the "
                "fields of judge.request"
            )

    async def _retrieve(self, batch_id: str) -> Batch:
        return await self._client.run(self._sdk.batches.retrieve(batch_id))

    async def _store_replies(self, content: str) -> str | None:
        """Store a file's replies; return why the server refuses such requests, if it does."""
        refusal = None
        context = self._context
        for line in content.splitlines():
            row = json.loads(line)
            key = row["custom_id"]
            if key in context.replies:
                continue
            reply, reason = _parse_response(row.get("response") or {})
            refusal = reason or refusal
            if reply is None:
                continue
            body = self._bodies.get(key, {})  # an earlier run may have asked for other matches
            max_cost = context.budget.max_cost(body) if body else 0.0
            context.budget.settle(0.0, cost=context.budget.cost(reply, fallback=max_cost))
            await context.replies.add(key, json.dumps(body).encode(), reply)
            context.on_reply()
        return refusal


def _parse_response(response: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Return (the reply to store, why such requests are refused); neither: try again."""
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            return check_completion(body), None
        except InvalidCompletion:
            return None, None
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    if error.get("code") in SINGLE_REQUEST_CODES:
        return {REJECTED: str(error["code"])}, None
    if status is None or status in TRANSIENT_STATUSES or status >= 500:
        return None, None
    return None, f"status {status}: {error.get('message', '')}"
