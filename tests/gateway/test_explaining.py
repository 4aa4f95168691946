"""Why a guarantee was broken, as its decision record and the log tell it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from slosgate.engines.messages import IterationReport
from tests.gateway.conftest import ADMIN, Start, eventually, gateway_of_its_own
from tests.gateway.scripted import Script, dies_after_two, good
from tests.processes import Process

SLO = {"x-slo-ttft-ms": "300", "x-slo-tpot-ms": "100"}


# One with no broken guarantee in its log yet: it tells only so many a minute.
gateway = pytest.fixture(scope="module", name="gateway")(gateway_of_its_own)


async def record(client: aiohttp.ClientSession, gateway: Process, model: str) -> dict[str, Any]:
    """Of one stream of ten tokens with an SLO, once it has ended."""
    body = {"model": model, "prompt": [1] * 20, "max_tokens": 10, "stream": True}
    async with client.post(f"{gateway.url}/v1/completions", json=body, headers=SLO) as answer:
        assert answer.headers["x-slo-admission"] == "guaranteed"
        request_id = answer.headers["x-slo-request-id"]
        await answer.read()
    found: dict[str, Any] = {}

    async def kept() -> bool:
        async with client.get(f"{gateway.url}/admin/requests/{request_id}", headers=ADMIN) as answer:
            found.update(await answer.json() if answer.status == 200 else {})
            return answer.status == 200

    await eventually(kept)
    return found


def late(servers: list[Any], *iterations_s: float) -> Script:
    """Streams a token every 0.3 s, and before the first one reports iterations that took so long."""

    async def script(call: Any) -> None:
        await asyncio.sleep(0.4)
        for server in servers:
            server.iterations = [IterationReport(s, 8, 100, 1) for s in iterations_s]
            server.channel.report(urgent=True)
        await good(0.3)(call)

    return script


@pytest.mark.parametrize(
    ("iterations_s", "said"),
    [
        ((0.02, 0.02, 0.25), ": iteration 3 of 3 ran "),
        ((0.001,), ": nothing ran for "),
    ],
)
async def test_a_late_first_token_names_the_iteration_that_ran_long(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
    iterations_s: tuple[float, ...], said: str,
) -> None:  # fmt: skip
    servers: list[Any] = []
    async with replica("a", late(servers, *iterations_s)) as server:
        servers.append(server)
        found = await record(client, gateway, model)
    assert not found["attained"]
    assert found["explanation"].startswith("predicted ")
    assert f"promised 300 ms, took {found['ttft_ms']:.0f} ms{said}" in found["explanation"]
    log = gateway.log.read_text()
    assert f"a guarantee of class default was broken: {found['explanation']} ({found['request_id']} on" in log


async def test_slow_tokens_and_a_replica_that_dies_are_told(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good(token_s=0.2)) as server:
        found = await record(client, gateway, model)
        assert " ms a token on average, promised 100 ms at every 20th" in found["explanation"]
        server.script = dies_after_two
        assert (await record(client, gateway, model))["explanation"] == "it ended as replica-lost after 2 tokens"
        server.script = good(token_s=0.001)
        assert (await record(client, gateway, model))["explanation"] == ""
