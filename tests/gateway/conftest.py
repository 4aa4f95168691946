from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from itertools import count

import aiohttp
import pytest
from redis.asyncio import Redis

from slosgate.engines.channel import key
from tests.gateway.scripted import Script, ScriptedReplica, scripted_replica
from tests.processes import Process, running_gateway, running_valkey

ADMIN = {"authorization": "Bearer admin"}
CONFIG = f"""
[admin]
sha256 = "{sha256(b"admin").hexdigest()}"

[classes.interactive]
ttft_ms = 1000
tpot_ms = 100
when_full = "reject"
service_tiers = ["priority"]

[classes.batch]
service_tiers = ["flex"]
"""

_models = count(1)


def valkey_of_its_own() -> Iterator[str]:
    with running_valkey() as server:
        yield server.url


def gateway_of_its_own(redis_url: str) -> Iterator[Process]:
    with running_gateway(redis_url, CONFIG) as process:
        yield process


# One for all tests that leave it whole: each brings replicas of a model of its own. A file that can't share makes them
# anew for its module.
redis_url = pytest.fixture(scope="session", name="redis_url")(valkey_of_its_own)
gateway = pytest.fixture(scope="session", name="gateway")(gateway_of_its_own)


@pytest.fixture
def model() -> str:
    """The name of a model that no other test uses."""
    return f"model-{next(_models)}"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


Start = Callable[[str, Script], AbstractAsyncContextManager[ScriptedReplica]]


@pytest.fixture
def replica(redis_url: str, gateway: Process, model: str, client: aiohttp.ClientSession) -> Start:
    """Start a scripted replica of this test's model, and wait until the gateway knows it."""

    @asynccontextmanager
    async def start(name: str, script: Script) -> AsyncIterator[ScriptedReplica]:
        async with scripted_replica(redis_url, f"{model}-{name}", script, model=model) as server:
            await until_known(client, gateway.url, server.name)
            yield server

    return start


async def until_known(client: aiohttp.ClientSession, url: str, name: str) -> None:
    await eventually(lambda: _knows(client, url, name))


async def _knows(client: aiohttp.ClientSession, url: str, name: str) -> bool:
    async with client.get(f"{url}/ready") as answer:
        return name in (await answer.json())["replicas"]


async def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until `condition` (a function, or a coroutine function) holds; fail when it never does."""
    async with asyncio.timeout(timeout_s):
        while True:
            held = condition()
            if asyncio.iscoroutine(held):
                held = await held
            if held:
                return
            await asyncio.sleep(0.01)


async def ledger_size(redis_url: str, replica: str) -> int:
    redis = Redis.from_url(redis_url)
    try:
        return int(await redis.hlen(key("ledger", replica)))
    finally:
        await redis.aclose()
