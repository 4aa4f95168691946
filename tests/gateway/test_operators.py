"""Pages for operators on an address of their own, or for the holder of the admin key; logs that nobody reads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.gateway.conftest import until_known
from tests.gateway.scripted import good, scripted_replica
from tests.processes import answers, free_port, running_gateway, wait_for

DIGEST = sha256(b"admin").hexdigest()
ADMIN = {"authorization": "Bearer admin"}


async def status(client: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> int:
    async with client.get(url, headers=headers) as answer:
        return answer.status


async def test_pages_of_operators_stand_on_their_own_address(client: aiohttp.ClientSession, redis_url: str) -> None:
    port = free_port()
    config = f'[admin]\nsha256 = "{DIGEST}"\naddress = "127.0.0.1:{port}"\n'
    with running_gateway(redis_url, config) as gateway:
        inside = f"http://127.0.0.1:{port}"
        for page in ("/metrics", "/ready", "/admin/requests"):
            assert await status(client, gateway.url + page, ADMIN) == 404
        assert await status(client, inside + "/metrics") == 200
        assert await status(client, inside + "/ready") in (200, 503)
        assert await status(client, inside + "/admin/requests") == 401
        assert await status(client, inside + "/admin/requests", ADMIN) == 200
        assert await status(client, inside + "/v1/models") == 404
        assert await status(client, inside + "/health") == await status(client, gateway.url + "/health") == 200
        gateway.popen.terminate()
        assert gateway.popen.wait(20) == 0


async def test_pages_of_operators_may_need_the_key(client: aiohttp.ClientSession, redis_url: str) -> None:
    config = f'[admin]\nsha256 = "{DIGEST}"\npages_need_key = true\n'
    with running_gateway(redis_url, config) as gateway:
        for page in ("/metrics", "/ready"):
            assert await status(client, gateway.url + page) == 401
        assert await status(client, gateway.url + "/metrics", ADMIN) == 200
        assert await status(client, gateway.url + "/health") == 200


@contextmanager
def logging_into(writer: int, redis_url: str, folder: Path) -> Iterator[str]:
    """A gateway that logs each request; its address."""
    (folder / "slosgate.toml").write_text("[server]\nlog_requests = true\n")
    port = free_port()
    options = ["--config", str(folder / "slosgate.toml"), "--redis", redis_url, "--port", str(port)]
    command = [sys.executable, "-m", "slosgate", "serve", *options]
    with subprocess.Popen(command, stdout=writer, stderr=writer) as gateway:
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"))
            yield f"http://127.0.0.1:{port}"
        finally:
            gateway.kill()


@pytest.mark.parametrize("where", ["a pipe that nobody reads", "a full disk", "a reader that has gone"])
async def test_a_log_never_stops_an_answer(
    where: str, client: aiohttp.ClientSession, redis_url: str, model: str, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    if where == "a full disk":
        writer = os.open("/dev/full", os.O_WRONLY)
    elif where == "a reader that has gone":
        os.close(reader)
    body = {"model": model, "prompt": "x", "max_tokens": 1}
    async with scripted_replica(redis_url, f"{model}-a", good(0), model=model) as replica:
        with logging_into(writer, redis_url, tmp_path) as url:
            await until_known(client, url, replica.name)
            for _ in range(300):  # more lines than a pipe holds
                async with client.post(f"{url}/v1/completions", json=body) as answer:
                    assert answer.status == 200


async def test_pages_of_operators_have_one_spelling(client: aiohttp.ClientSession, redis_url: str) -> None:
    config = f'[admin]\nsha256 = "{DIGEST}"\n'
    with running_gateway(redis_url, config) as gateway:
        assert await status(client, gateway.url + "/metrics") == 200
        for path in ("/Metrics", "//metrics", "/%6detrics", "/metrics/", "/v1/../metrics", "/ADMIN/requests", "/Ready"):
            async with client.get(URL(gateway.url + path, encoded=True), headers=ADMIN) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found"), path


async def test_the_operators_address_has_the_same_limits(client: aiohttp.ClientSession, redis_url: str) -> None:
    port = free_port()
    config = f'[admin]\naddress = "127.0.0.1:{port}"\n[server]\nheader_timeout_s = 1\n'
    with running_gateway(redis_url, config):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 431 ")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost:")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408 ")
        writer.close()
