"""A replica is killed under load, with real engines behind the gateway."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import partial
from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import eventually, ledger_size, until_known
from tests.processes import running_engine, running_gateway, running_valkey

MODEL = "facebook/opt-13b"


async def outcome(client: aiohttp.ClientSession, url: str, number: int) -> str:
    """How one request ends: "tokens", "lost" with the replica named, or what should not happen."""
    stream = number % 3 > 0
    tokens = 40
    body: dict[str, Any] = {
        "model": MODEL, "prompt": [number % 50] * 100, "max_tokens": tokens, "ignore_eos": True, "stream": stream,
    }  # fmt: skip
    slo = {"x-slo-ttft-ms": "1000", "x-slo-tpot-ms": "100"} if number % 2 else {}
    async with client.post(f"{url}/v1/completions", json=body, headers=slo) as answer:
        text = await answer.text()
        if not stream:
            return "tokens" if json.loads(text)["usage"]["completion_tokens"] == tokens else text
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    if events[-1] == "[DONE]":
        produced = sum(bool(json.loads(e)["choices"]) for e in events[:-1])
        return "tokens" if produced >= tokens else text
    error = json.loads(events[-1])["error"]
    return "lost" if error["code"] == "replica_lost" and "replica doomed " in error["message"] else text


@pytest.mark.timeout(240)
async def test_every_request_ends_exactly_once_when_a_replica_is_killed(client: aiohttp.ClientSession) -> None:
    with (
        running_valkey() as redis,
        running_gateway(redis.url) as gateway,
        running_engine(redis.url, "doomed") as doomed,
        running_engine(redis.url, "safe"),
    ):
        for name in ("doomed", "safe"):
            await until_known(client, gateway.url, name)
        asked = []
        for number in range(60):
            asked.append(asyncio.create_task(outcome(client, gateway.url, number)))
            await asyncio.sleep(0.02)
            if number == 30:
                doomed.kill()
        ended = Counter(await asyncio.gather(*asked))
        assert set(ended) <= {"tokens", "lost"}
        assert ended.total() == 60
        assert ended["lost"] >= 1
        for name in ("doomed", "safe"):
            await eventually(partial(_is_empty, redis.url, name))
        assert await outcome(client, gateway.url, 1) == "tokens"


async def _is_empty(redis_url: str, name: str) -> bool:
    return await ledger_size(redis_url, name) == 0
