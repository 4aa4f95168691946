"""What an autoscaler reads off /metrics: what is missing, and how many replicas would meet it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import Start, eventually, gateway_of_its_own, valkey_of_its_own
from tests.gateway.scripted import good
from tests.processes import Process

SLO = {"x-slo-ttft-ms": "900", "x-slo-tpot-ms": "100"}


# Of this file alone: what other gateways are asked for counts, too.
redis_url = pytest.fixture(scope="module", name="redis_url")(valkey_of_its_own)


# One that has not been told of many models before: it tells only so many apart.
gateway = pytest.fixture(scope="module", name="gateway")(gateway_of_its_own)


async def seen(client: aiohttp.ClientSession, gateway: Process, name: str, model: str) -> dict[str, float]:
    """The values of a metric of one model, by class."""
    async with client.get(f"{gateway.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [re.fullmatch(rf'{name}{{model_name="{re.escape(model)}"(.*)}} (\S+)', line) for line in lines]
    return {match[1].partition("=")[2].strip('"'): float(match[2]) for match in found if match}


@pytest.mark.parametrize(("slo_class", "status"), [("interactive", 429), ("batch", 200)])
async def test_what_is_offered_and_not_guaranteed_shows_below_zero(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, slo_class: str, status: int
) -> None:
    """Two requests that a busy replica can't promise, refused by one class, late in the other."""
    body: dict[str, Any] = {"model": model, "prompt": [1] * 100, "max_tokens": 4, "stream": True}

    async def offer() -> int:
        async with client.post(
            f"{gateway.url}/v1/completions", json=body, headers=SLO | {"x-slo-class": slo_class}
        ) as answer:
            await answer.read()
            return answer.status

    async def room() -> float:
        return (await seen(client, gateway, "slosgate_class_headroom_requests", model)).get(slo_class, 0)

    async def is_missing() -> bool:
        return await room() == -2

    async def has_room() -> bool:
        return await room() > 0

    delays_s = [0.0, 1.5, 1.5]

    async def script(call: Any) -> None:
        await asyncio.sleep(delays_s.pop(0))
        await good()(call)

    async with replica("a", script) as server:
        assert await offer() == 200
        await eventually(has_room)
        assert (await seen(client, gateway, "slosgate_replicas_wanted", model))[""] == 1
        server.busy_for(600)
        await server.reported()
        assert [await offer(), await offer()] == [status, status]
        await eventually(is_missing)


async def test_a_demand_that_one_replica_can_not_meet_wants_more(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    """Forty long prompts at once: one replica takes seconds for them."""
    body: dict[str, Any] = {"model": model, "prompt": [1] * 1500, "max_tokens": 4, "stream": True}

    async def offer() -> None:
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=SLO) as answer:
            await answer.read()

    async def wants_many() -> bool:
        return (await seen(client, gateway, "slosgate_replicas_wanted", model)).get("", 0) > 1

    async with replica("a", good()):
        await asyncio.gather(*(offer() for _ in range(40)))
        await eventually(wants_many)
