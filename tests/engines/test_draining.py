"""A simulated replica that is told to go: it says so, finishes what it has, and ends."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest
from redis.asyncio import Redis

from slosgate.bench.processes import simulated_engine
from slosgate.engines.cancelling import ended
from tests.engines.conftest import Valkey
from tests.engines.serving import Watcher

END_S = 20.0


@pytest.mark.parametrize(
    ("drain_s", "signals", "finishes"), [(60.0, 1, True), (0.5, 1, False), (60.0, 2, False)],
    ids=["it finishes", "within its bound", "at once when told twice"],
)  # fmt: skip
async def test_a_replica_that_is_told_to_go(valkey: Valkey, drain_s: float, signals: int, finishes: bool) -> None:
    body = {"prompt": [1] * 10, "max_tokens": 300 if finishes else 1900, "ignore_eos": True, "stream": True}
    options = ("--redis", valkey.url, "--name", "leaver", "--drain-s", f"{drain_s}")
    with simulated_engine(*options) as engine:
        await asyncio.to_thread(engine.wait_until_up)
        async with Redis.from_url(valkey.url) as redis, aiohttp.ClientSession() as session:
            watcher = Watcher(redis, "leaver")
            watching = asyncio.create_task(watcher.watch())
            async with session.post(f"{engine.url}/v1/completions", json=body) as answer:
                await answer.content.readany()
                engine.popen.send_signal(signal.SIGTERM)
                await watcher.until(lambda report: report.draining and bool(report.progress))
                for _ in range(signals - 1):
                    engine.popen.send_signal(signal.SIGTERM)
                assert (await _ends_well(answer)) == finishes
            assert await asyncio.to_thread(engine.popen.wait, END_S) in (0, -signal.SIGTERM)
            await ended([watching])


async def _ends_well(answer: aiohttp.ClientResponse) -> bool:
    try:
        return (await answer.text()).endswith("data: [DONE]\n\n")
    except aiohttp.ClientError:
        return False
