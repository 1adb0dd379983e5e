"""Many requests at once, each reply stored before it counts."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qlora_repro.judge.client.prices import Budget
from qlora_repro.judge.client.replies import Replies
from qlora_repro.judge.client.server import Rejected, Server, Stopped

AT_ONCE = 4  # requests that start in one pass of the event loop
REJECTED = "rejected"  # in a stored response: why the server will never answer this request


class Start:
    """Lets few requests start in one pass of the event loop: the next wait until these are sent.

    Without it, replies that come together are followed by requests that leave together, and in time
    all of them wait for the slowest.
    """

    def __init__(self) -> None:
        self._started = 0

    async def turn(self) -> None:
        """Wait for a pass in which another request may start."""
        while self._started >= AT_ONCE:
            await asyncio.sleep(0)
        if not self._started:
            asyncio.get_running_loop().call_soon(self._next_pass)
        self._started += 1

    def _next_pass(self) -> None:
        self._started = 0


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What the workers share."""

    server: Server
    replies: Replies
    budget: Budget
    tokens: Callable[[dict[str, Any]], int]  # that a request is expected to take, for the pace
    on_reply: Callable[[], None]
    start: Start = field(default_factory=Start)


async def ask_all(bodies: Mapping[str, dict[str, Any]], asking: Asking, *, workers: int) -> None:
    """Ask what is not stored yet. After a fault that ends the run, what is under way finishes.

    Raises the first such fault, when all replies that came are stored.
    """
    waiting = iter([(key, body) for key, body in bodies.items() if key not in asking.replies])
    faults: list[Exception] = []
    await asyncio.gather(*(_work(waiting, asking, faults) for _ in range(workers)))
    if faults:
        raise faults[0]


async def _work(
    waiting: Iterator[tuple[str, dict[str, Any]]], asking: Asking, faults: list[Exception]
) -> None:
    try:
        await _ask_in_turn(waiting, asking)
    except Stopped:
        return
    except Exception as error:  # noqa: BLE001 - kept, and raised once the others are done
        faults.append(error)
        asking.server.stop()


async def _ask_in_turn(waiting: Iterator[tuple[str, dict[str, Any]]], asking: Asking) -> None:
    """Ask one after the other; a reply is written at once, and synced while the next is awaited."""
    synced: asyncio.Future[None] | None = None
    try:
        for key, body in waiting:
            content = json.dumps(body).encode()  # once, to be sent and to be stored
            reply = await _ask(body, content, asking)
            before, synced = synced, asking.replies.put(key, content, reply)
            asking.on_reply()
            if before is not None:
                await before
    finally:
        if synced is not None:
            await synced


async def _ask(body: dict[str, Any], content: bytes, asking: Asking) -> dict[str, Any]:
    budget = asking.budget
    bound = budget.bound(body)
    await budget.reserve(bound)
    cost = 0.0
    try:
        await asking.start.turn()
        reply: dict[str, Any] = await asking.server.complete(
            content, tokens=asking.tokens(body), lost=lambda: budget.lose(bound)
        )
        cost = budget.cost(reply, fallback=bound)
    except Rejected as error:
        return {REJECTED: str(error)}
    finally:
        budget.settle(bound, cost=cost)
    return reply
