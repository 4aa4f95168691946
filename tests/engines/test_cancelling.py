"""Tasks that are ended although something under them swallows cancellations."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from slosgate.engines.cancelling import check_cancelled, ended, failure_of


async def test_a_task_that_swallows_cancellations_is_cancelled_until_it_ends() -> None:
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await ended([task])
    assert (task.done(), swallowed) == (True, 2)


async def test_a_loop_notices_what_was_swallowed_under_it() -> None:
    rounds = 0

    async def loop() -> None:
        nonlocal rounds
        while True:
            check_cancelled()
            rounds += 1
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert (task.cancelled(), rounds) == (True, 1)


async def test_a_limit_that_has_passed_is_no_cancellation() -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
    check_cancelled()


async def test_a_failure_is_told_and_ends_nothing_else() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def works() -> None:
        await asyncio.sleep(0)

    assert repr(await failure_of(fails())) == "ValueError('broken')"
    assert await failure_of(works()) is None
