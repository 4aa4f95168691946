"""Decisions leave the event loop to others in between, and are made in the order in which requests came."""

from __future__ import annotations

import asyncio
import time

from slosgate.gateway.decisions.turns import Turns


async def test_a_burst_is_decided_in_order_while_others_have_their_turn() -> None:
    turns, log = Turns(), list[str]()

    async def decided(number: int) -> None:
        await turns.mine()
        time.sleep(0.002)  # noqa: ASYNC251  # it is busy deciding
        log.append(str(number))

    async def others() -> None:
        while len(log) < 30:
            log.append("other")
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await asyncio.gather(*(decided(number) for number in range(20)))
    await beside
    assert [one for one in log if one != "other"] == [str(number) for number in range(20)]
    assert log.index("1") - log.index("0") > 1  # somebody else in between


async def test_short_decisions_share_a_turn() -> None:
    now_s = 0.0
    turns, log = Turns(monotonic=lambda: now_s), list[int]()

    async def decided(number: int) -> None:
        nonlocal now_s
        await turns.mine()
        now_s += 0.0004
        log.append(rounds)

    tasks = [asyncio.create_task(decided(number)) for number in range(9)]
    for rounds in range(9):  # noqa: B007  # read by the tasks
        await asyncio.sleep(0)
    assert log == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    await asyncio.gather(*tasks)
