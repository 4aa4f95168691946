"""What happens when Valkey goes away and comes back, and when gateways share it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from gateway import valkey
from tests.gateway.conftest import CONFIG, eventually, ledger_size, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica, stalls
from tests.processes import free_port, running_gateway, running_valkey

BODY: dict[str, Any] = {"model": MODEL, "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}
SLO = {"x-slo-ttft-ms": "800", "x-slo-tpot-ms": "80"}


async def test_valkey_dies_and_comes_back_empty(client: aiohttp.ClientSession) -> None:
    port = free_port()
    first = valkey.start(port)
    async with AsyncExitStack() as stack:
        stack.callback(first.stop)
        gateway = stack.enter_context(running_gateway(first.url, CONFIG))
        replica = await stack.enter_async_context(scripted_replica(first.url, "a", good(token_s=0.05)))
        await until_known(client, gateway.url, "a")
        long = {**BODY, "stream": True, "max_tokens": 120}
        async with client.post(f"{gateway.url}/v1/completions", json=long, headers=SLO) as admitted:
            assert admitted.headers["x-slo-admission"] == "guaranteed"
            first.process.kill()
            first.process.wait()
            for _ in range(3):
                async with client.post(f"{gateway.url}/v1/completions", json=BODY, headers=SLO) as answer:
                    assert answer.status == 503
                    assert int(answer.headers["retry-after"]) >= 1
                    assert (await answer.json())["error"]["code"] == "state_unavailable"
            second = valkey.start(port)
            stack.callback(second.stop)
            await eventually(lambda: _guaranteed(client, gateway.url))
            # The ledger came back empty, and the gateway has put back what it still answers for.
            await eventually(lambda: _size(second.url, "a", at_least=1))
            text = (await admitted.read()).decode()
            assert text.count("data: ") == 121
            assert text.endswith("data: [DONE]\n\n")
        await eventually(lambda: _size(second.url, "a", exactly=0))
        await eventually(lambda: bool(replica.plans))


async def _guaranteed(client: aiohttp.ClientSession, url: str) -> bool:
    async with client.post(f"{url}/v1/completions", json=BODY, headers=SLO) as answer:
        return answer.status == 200 and answer.headers["x-slo-admission"] == "guaranteed"


async def _size(redis_url: str, name: str, *, at_least: int = 0, exactly: int | None = None) -> bool:
    size = await ledger_size(redis_url, name)
    return size >= at_least if exactly is None else size == exactly


async def test_without_replicas_a_gateway_lives_but_is_not_ready(client: aiohttp.ClientSession) -> None:
    with running_valkey() as redis, running_gateway(redis.url) as gateway:
        async with client.get(f"{gateway.url}/ready") as answer:
            assert answer.status == 503
        async with client.post(f"{gateway.url}/v1/completions", json=BODY) as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert (await answer.json())["error"]["code"] == "no_replica"


async def test_gateways_share_what_they_promise_and_outlive_each_other(client: aiohttp.ClientSession) -> None:
    """A guarantee that fills the replica is refused at the other gateway; when the first dies, its promises end."""
    heavy = {**BODY, "prompt": [1] * 2000, "max_tokens": 2}
    one_at_a_time = {"x-slo-class": "interactive", "x-slo-ttft-ms": "120"}
    with running_valkey() as redis, running_gateway(redis.url, CONFIG) as a, running_gateway(redis.url, CONFIG) as b:
        async with scripted_replica(redis.url, "r", stalls) as replica:
            for gateway in (a, b):
                await until_known(client, gateway.url, "r")
            held = asyncio.create_task(_status(client, a.url, heavy, one_at_a_time))
            await eventually(lambda: len(replica.calls) == 1)
            async with client.post(f"{b.url}/v1/completions", json=heavy, headers=one_at_a_time) as answer:
                assert answer.status == 429
                assert int(answer.headers["retry-after-ms"]) > 0
            a.kill()
            assert await held == 0
            await eventually(lambda: _size(redis.url, "r", exactly=0))
            replica.script = good()
            assert await _status(client, b.url, heavy, one_at_a_time) == 200


async def _status(client: aiohttp.ClientSession, url: str, body: dict[str, Any], headers: dict[str, str]) -> int:
    """The status of an answer, 0 when the connection broke."""
    try:
        async with client.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
            await answer.read()
            return answer.status
    except aiohttp.ClientError:
        return 0
