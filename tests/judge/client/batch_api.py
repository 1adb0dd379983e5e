"""A stand-in for OpenAI's Batch API: files and batches in memory, replies as a test says."""

import json
import re
from collections.abc import Callable
from typing import Any

from loopback import JSON, Asked, Reply

Outcome = Callable[[str, int], Reply]  # (question, number of the batch) -> how it was answered


class BatchApi:
    """Answers the requests that a batch judge makes."""

    def __init__(self, outcome: Outcome, *, polls: int = 1, ends: str = "completed") -> None:
        self._outcome = outcome
        self._polls = polls
        self._ends = ends
        self.files: dict[str, bytes] = {}
        self.batches: list[dict[str, Any]] = []
        self.lose_creation = False  # make the batch, and break off before saying so

    def __call__(self, asked: Asked) -> Reply:
        path = asked.path.removeprefix("/v1").partition("?")[0]
        if (asked.method, path) == ("POST", "/files"):
            return said(self._upload(asked))
        if (asked.method, path) == ("POST", "/batches"):
            made = self._create(asked.body)
            lost = self.lose_creation
            return Reply(content=b"{}", send=0) if lost else said(made)
        if path == "/batches":
            return said({"object": "list", "data": self.batches[::-1], "has_more": False})
        if found := re.fullmatch(r"/batches/(.+)", path):
            return said(self._retrieve(found[1]))
        found = re.fullmatch(r"/files/(.+)/content", path)
        assert found, path
        return Reply(content=self.files[found[1]], headers={"Content-Type": "text/plain"})

    @property
    def submitted(self) -> list[list[str]]:
        """The questions of each batch."""
        return [[question(row) for row in self._rows(batch)] for batch in self.batches]

    def _upload(self, asked: Asked) -> dict[str, Any]:
        assert b'name="purpose"\r\n\r\nbatch' in asked.content
        lines = [line for line in asked.content.split(b"\n") if line.startswith(b'{"custom_id"')]
        name = f"file-{len(self.files)}"
        self.files[name] = b"\n".join(lines)
        return {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "x"} | {
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        made = body | {"id": name, "object": "batch", "created_at": 1, "status": "validating"}
        self.batches.append(made | {"polls": 0})
        return made

    def _rows(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def _retrieve(self, name: str) -> dict[str, Any]:
        number = next(n for n, batch in enumerate(self.batches) if batch["id"] == name)
        batch = self.batches[number]
        batch["polls"] += 1
        if batch["polls"] <= self._polls:
            return batch | {"status": "in_progress"}
        rows = [(row, self._outcome(question(row), number)) for row in self._rows(batch)]
        for kind, good in (("output", True), ("error", False)):
            lines = [line(row, reply) for row, reply in rows if (reply.status == 200) is good]
            if lines:
                self.files[f"{kind}-{name}"] = "\n".join(lines).encode()
                batch[f"{kind}_file_id"] = f"{kind}-{name}"
        return batch | {"status": self._ends}


def said(body: Any) -> Reply:
    return Reply(content=json.dumps(body).encode(), headers={"Content-Type": JSON})


def question(row: dict[str, Any]) -> str:
    """Return the number that a match's question asks about."""
    found = re.search(r"What is (\d+) plus", row["body"]["messages"][-1]["content"])
    assert found
    return found[1]


def line(row: dict[str, Any], reply: Reply) -> str:
    """Return a line of an output or error file; status 0 stands for a request that expired."""
    if reply.status == 0:
        error = {"code": "batch_expired", "message": "not in time"}
        return json.dumps({"custom_id": row["custom_id"], "response": None, "error": error})
    response = {"status_code": reply.status, "request_id": "r", "body": json.loads(reply.content)}
    return json.dumps({"custom_id": row["custom_id"], "response": response, "error": None})
