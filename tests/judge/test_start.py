"""Requests that become due together leave a few at a time, in their order."""

import asyncio

from qlora_repro.judge.client.online import AT_ONCE, Start

WORKERS = 3 * AT_ONCE + 1


def test_few_requests_start_in_one_pass_and_each_is_sent_before_the_next_start() -> None:
    happened: list[tuple[str, int]] = []

    async def send(number: int) -> None:
        happened.append(("sent", number))

    async def work(number: int, start: Start) -> None:
        await start.turn()
        happened.append(("started", number))
        await asyncio.create_task(send(number))  # as an http client writes: in the next pass

    async def main() -> None:
        start = Start()
        await asyncio.gather(*(work(number, start) for number in range(WORKERS)))

    asyncio.run(main())
    groups = [range(at, min(at + AT_ONCE, WORKERS)) for at in range(0, WORKERS, AT_ONCE)]
    assert happened == [
        (what, number) for group in groups for what in ("started", "sent") for number in group
    ]


def test_a_start_later_on_waits_for_nobody() -> None:
    async def main() -> int:
        start = Start()
        for _ in range(2 * AT_ONCE):
            await start.turn()
        await asyncio.sleep(0)
        passes = 0

        async def count() -> None:
            nonlocal passes
            while True:
                passes += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await start.turn()
        counting.cancel()
        return passes

    assert asyncio.run(main()) == 0
