"""Redis is away, or elsewhere by now."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from redis.asyncio import Redis

from slosgate.engines.store import STORE_ERRORS
from slosgate.gateway.state import valkey
from slosgate.gateway.state.ledger import Ledger
from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.gateway.test_ledger import entry
from tests.processes import Process, free_port, running_gateway, running_valkey

SLO = {"x-slo-ttft-ms": "3000", "x-slo-tpot-ms": "300"}
STRICT = "[classes.strict]\nttft_ms = 3000\nwhen_full = 'reject'\n"


async def _ask(client: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, str]:
    """Status, and admission or error code."""
    body = {"model": MODEL, "prompt": [1] * 20, "max_tokens": 3}
    async with client.post(f"{url}/v1/completions", json=body, headers=headers or SLO) as answer:
        said = answer.headers.get("x-slo-admission") or (await answer.json())["error"]["code"]
        return answer.status, str(said)


@pytest.mark.parametrize(
    ("config", "expected", "ready"),
    [
        ("", (200, "best-effort"), 200),
        ("[admission]\nwhen_state_is_away = 'refuse'\n", (503, "state_unavailable"), 503),
    ],
)
async def test_while_redis_is_away_nothing_is_promised(
    client: aiohttp.ClientSession, config: str, expected: tuple[int, str], ready: int
) -> None:
    with running_valkey() as redis, running_gateway(redis.url, config + STRICT) as gateway:
        async with scripted_replica(redis.url, "r", good()):
            await until_known(client, gateway.url, "r")
            assert await _ask(client, gateway.url) == (200, "guaranteed")
            redis.process.kill()
            await eventually(lambda: _says(client, gateway, expected))
            assert await _ask(client, gateway.url, **{"x-slo-class": "strict"}) == expected
            async with client.get(f"{gateway.url}/ready") as answer:
                assert answer.status == ready
                assert not (await answer.json())["state_available"]


async def _says(client: aiohttp.ClientSession, gateway: Process, expected: tuple[int, str]) -> bool:
    return await _ask(client, gateway.url) == expected


class Switch:
    """One address that leads to another server when it is told to; connections that stand stay where they are."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def switchable(port: int) -> AsyncIterator[tuple[Switch, str]]:
    switch = Switch(port)
    server = await asyncio.start_server(switch.serve, "127.0.0.1", 0)
    yield switch, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()


@pytest.mark.parametrize("silent", [False, True])
async def test_a_failover_behind_one_address_is_followed(client: aiohttp.ClientSession, *, silent: bool) -> None:
    """The old server stays: it takes no writes any more, or says nothing at all."""
    with running_valkey(free_port()) as old, running_valkey(free_port()) as new:
        assert old.port is not None
        assert new.port is not None
        async with switchable(old.port) as (switch, url):
            with running_gateway(url) as gateway:
                async with scripted_replica(url, "r", good()):
                    await until_known(client, gateway.url, "r")
                    switch.port = new.port
                    if silent:
                        old.process.send_signal(signal.SIGSTOP)
                    else:
                        async with Redis(port=old.port) as redis:
                            await redis.replicaof("127.0.0.1", new.port)
                    switched_s = time.monotonic()
                    async with Redis(port=new.port) as redis:
                        await eventually(lambda: redis.exists("slosgate:replica:r"))
                    await eventually(lambda: _says(client, gateway, (200, "guaranteed")))
                    assert time.monotonic() - switched_s < 10  # 3 s on a machine that has nothing else to do
                    old.process.send_signal(signal.SIGCONT)


async def test_a_private_valkey_that_dies_is_started_again() -> None:
    server = valkey.start()
    server.keep_up()
    try:
        first = server.process.pid
        server.process.kill()
        async with Redis.from_url(server.url) as redis:
            await eventually(lambda: _answers(redis))
        assert server.process.pid != first
    finally:
        server.stop()


async def _answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except STORE_ERRORS:
        return False


async def test_what_gateways_write_means_the_same_on_clocks_that_differ(redis_url: str, model: str) -> None:
    ahead = Ledger(redis_url, f"ahead-{model}", clock=lambda: time.time() + 3.0)
    right = Ledger(redis_url, f"right-{model}")
    for _ in range(2):  # the first beat measures, the second tells
        for ledger in (ahead, right):
            await ledger.beat()
            await ledger.found()
            await ledger.beat()
    sending = asyncio.create_task(ahead.run())
    await ahead.beat()
    await ahead.commit(model, 0, entry("x", gateway=ahead.gateway))
    await right.beat()
    _, found = await right.load(model)
    assert found["x"].deadline_s == pytest.approx(entry("x").deadline_s - 3.0, abs=0.2)
    sending.cancel()
    for ledger in (ahead, right):
        await ledger.close()
