"""A gateway that may open few files: clients wait for a connection, and nobody fails or is blamed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from slosgate.bench.processes import SLOSGATE, Process, started
from tests.gateway.conftest import until_known
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.processes import free_port

FILES = 200
STREAMS = 250
SILENT = 100  # connections that say nothing: more than there is room for
SOON_S = 15.0  # before silent connections are closed anyhow
WITH_FEW_FILES = ("sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh")


@contextmanager
def limited_gateway(redis_url: str) -> Iterator[Process]:
    port = free_port()
    command = [*WITH_FEW_FILES, *SLOSGATE, "serve", "--redis", redis_url, "--port", str(port)]
    with started(command, port) as process:
        process.wait_until_up()
        yield process


async def _stream(client: aiohttp.ClientSession, url: str) -> str:
    body = {"model": MODEL, "prompt": [1], "max_tokens": 20, "stream": True}
    async with client.post(f"{url}/v1/completions", json=body) as answer:
        text = await answer.text()
    return "whole" if text.endswith("data: [DONE]\n\n") else text[-200:]


async def test_clients_beyond_the_files_wait(redis_url: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    with limited_gateway(redis_url) as gateway:
        async with (
            scripted_replica(redis_url, "patient", good(0.05)),
            aiohttp.ClientSession(connector=connector) as client,
        ):
            await until_known(client, gateway.url, "patient")
            ends = await asyncio.gather(*(_stream(client, gateway.url) for _ in range(STREAMS)))
            assert set(ends) == {"whole"}
            async with client.get(f"{gateway.url}/metrics") as answer:
                assert 'slosgate_replica_breaker_state{replica="patient"} 0.0' in await answer.text()
        assert f"only {FILES} files may be open" in gateway.log.read_text()


@pytest.mark.parametrize("asks", [True, False], ids=["had an answer", "never asked"])
async def test_idle_connections_make_room(client: aiohttp.ClientSession, redis_url: str, asks: bool) -> None:
    """Those that ask for nothing, any more or at all, are closed when others come."""
    with limited_gateway(redis_url) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        idle = []
        for _ in range(STREAMS if asks else SILENT):
            reader, writer = await asyncio.open_connection(host, int(port))
            if asks:
                writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")
            idle.append(writer)
        async with asyncio.timeout(SOON_S), client.get(f"{gateway.url}/health") as answer:
            assert answer.status == 200
        for writer in idle:
            writer.close()
