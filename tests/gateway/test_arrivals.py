"""A replica is told who is coming before the request is there."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from slosgate.engines.cancelling import ended
from slosgate.engines.channel import arrivals_for, key
from slosgate.engines.door import Door
from slosgate.engines.messages import Announcement
from slosgate.engines.store import connect
from tests.gateway.conftest import Start, eventually
from tests.gateway.scripted import good
from tests.processes import Process


async def test_requests_with_an_slo_are_announced_to_their_replica(
    client: aiohttp.ClientSession, gateway: Process, replica: Start, model: str, redis_url: str
) -> None:
    heard: list[Announcement] = []

    async def listen(name: str) -> None:
        async with connect(redis_url) as redis:
            async for announcement in arrivals_for(redis, name, Door()):
                heard.append(announcement)

    async def is_heard(name: str) -> bool:
        async with connect(redis_url) as redis:
            [(_, listeners)] = await redis.pubsub_numsub(key("arrivals", name))
            return bool(listeners)

    async def ask(**slo: str) -> str:
        body = {"model": model, "prompt": [1] * 50, "max_tokens": 5}
        headers = {f"x-slo-{name}-ms": value for name, value in slo.items()}
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return answer.headers["x-request-id"]

    async with replica("a", good()) as server:
        listening = asyncio.create_task(listen(server.name))
        await eventually(lambda: is_heard(server.name))
        await ask()
        asked = await ask(ttft="2000", tpot="100")
        await eventually(lambda: heard)
        await ended([listening])
    assert [(a.request_id, a.prompt_tokens) for a in heard] == [(asked, 50)]  # the other one has no SLO
    assert heard[0].ttft_s == pytest.approx(2.0, abs=0.5)


async def test_the_announcement_does_not_wait_for_the_entry_into_the_ledger(
    client: aiohttp.ClientSession, gateway: Process, replica: Start, model: str, redis_url: str
) -> None:
    async with (
        replica("a", good()) as server,
        connect(redis_url) as redis,
        redis.pubsub(ignore_subscribe_messages=True) as news,
    ):
        arrivals = key("arrivals", server.name)
        await news.subscribe(arrivals)
        await news.psubscribe(key("changes", "*"))
        for _ in range(2):
            await news.get_message(timeout=1.0)  # the confirmations
        body = {"model": model, "prompt": [1] * 50, "max_tokens": 5}
        headers = {"x-slo-ttft-ms": "2000", "x-slo-tpot-ms": "100"}
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
        first = await news.get_message(timeout=1.0)
        assert first is not None
        assert first["channel"].decode() == arrivals
