"""A gateway that is told to stop finishes what it has accepted."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.gateway.conftest import eventually, ledger_size, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.processes import running_gateway


async def test_a_stopping_gateway_loses_no_accepted_request(client: aiohttp.ClientSession, redis_url: str) -> None:
    with running_gateway(redis_url) as gateway:
        async with scripted_replica(redis_url, "drained", good(token_s=0.05)) as replica:
            await until_known(client, gateway.url, "drained")
            body = {"model": MODEL, "prompt": [1], "max_tokens": 20, "stream": True}
            async with client.post(f"{gateway.url}/v1/completions", json=body) as answer:
                await eventually(lambda: bool(replica.calls))
                gateway.popen.terminate()
                text = await answer.text()
            assert text.count("data: ") == 21
            assert text.endswith("data: [DONE]\n\n")
            assert await asyncio.to_thread(gateway.popen.wait, 30) == 0
        assert await ledger_size(redis_url, "drained") == 0
