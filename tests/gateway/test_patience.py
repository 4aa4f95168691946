"""A request without an SLO waits behind those that have one, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import ScriptedReplica, holds, scripted_replica, stalls
from tests.processes import Process, running_gateway, running_valkey


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with running_valkey() as server:
        yield server.url


@pytest.fixture(scope="module")
def impatient(redis: str) -> Iterator[Process]:
    with running_gateway(redis, "[admission]\npatience_s = 0.2") as process:
        yield process


async def test_a_request_without_an_slo_is_not_overtaken_for_ever(
    redis: str, impatient: Process, client: aiohttp.ClientSession, model: str
) -> None:
    async with scripted_replica(redis, model, stalls, model=model) as replica:
        replica.script = holds(replica.progress)
        await until_known(client, impatient.url, model)
        replica.busy_for(600)  # nothing can be guaranteed, and nobody gets anywhere
        await replica.reported()
        first = asyncio.create_task(_ask(client, impatient.url, model, {}))
        await eventually(lambda: len(replica.calls) == 1)
        await asyncio.sleep(0.3)
        others = [asyncio.create_task(_ask(client, impatient.url, model, {"x-slo-ttft-ms": "300"})) for _ in range(5)]
        await eventually(lambda: len(replica.calls) == 6)
        await asyncio.sleep(0.3)  # their time is over too
        replica.busy_for(0)
        await replica.reported()
        await eventually(lambda: _next(replica) == replica.calls[0].body["vllm_xargs"]["slo_id"])
        for task in (first, *others):
            task.cancel()
        await asyncio.gather(first, *others, return_exceptions=True)


def _next(replica: ScriptedReplica) -> str:
    """Whose prompt the newest plan computes first."""
    return next((name for step in replica.plans[-1].horizon for name, _ in step.prefill), "")


async def _ask(client: aiohttp.ClientSession, url: str, model: str, headers: dict[str, str]) -> None:
    body = {"model": model, "prompt": [1] * 500, "max_tokens": 5, "ignore_eos": True}
    async with client.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
        await answer.read()
