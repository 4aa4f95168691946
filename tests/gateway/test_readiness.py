"""A gateway that nobody has joined yet."""

from __future__ import annotations

import aiohttp

from tests.gateway.scripted import MODEL
from tests.processes import running_gateway, running_valkey


async def test_without_replicas_a_gateway_lives_but_is_not_ready(client: aiohttp.ClientSession) -> None:
    with running_valkey() as redis, running_gateway(redis.url) as gateway:
        async with client.get(f"{gateway.url}/ready") as answer:
            assert answer.status == 503
        async with client.post(f"{gateway.url}/v1/completions", json={"model": MODEL, "prompt": "x"}) as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert (await answer.json())["error"]["code"] == "no_replica"
