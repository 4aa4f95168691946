"""A gateway that nobody has joined yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import aiohttp
import pytest

from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.processes import Process, free_port, running_gateway, running_valkey


async def test_without_replicas_a_gateway_lives_but_is_not_ready(client: aiohttp.ClientSession) -> None:
    with running_valkey() as redis, running_gateway(redis.url) as gateway:
        async with client.get(f"{gateway.url}/ready") as answer:
            assert answer.status == 503
        async with client.post(f"{gateway.url}/v1/completions", json={"model": MODEL, "prompt": "x"}) as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert (await answer.json())["error"]["code"] == "no_replica"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": MODEL, "prompt": "x"}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"model": MODEL, "input": "x"}),
    ],
)
async def test_without_redis_from_the_start_a_gateway_says_that_its_state_is_away(
    client: aiohttp.ClientSession, without_redis: Process, path: str, body: dict[str, str]
) -> None:
    """It knows no replica to serve best effort on."""
    asked = partial(_error, client, f"{without_redis.url}{path}", body)
    await eventually(lambda: _is_away(asked))
    assert "no replica is known yet" in (await asked())["message"]


async def _error(client: aiohttp.ClientSession, url: str, body: dict[str, str]) -> dict[str, str]:
    async with client.post(url, json=body) as answer:
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        return dict((await answer.json())["error"])


async def _is_away(asked: Callable[[], Awaitable[dict[str, str]]]) -> bool:
    return (await asked())["code"] == "state_unavailable"


@pytest.fixture(scope="module")
def without_redis() -> Iterator[Process]:
    with running_gateway(f"redis://127.0.0.1:{free_port()}/0") as process:
        yield process


async def test_a_model_of_a_replica_that_registers_is_not_denied_before_redis_was_read(
    client: aiohttp.ClientSession, redis_url: str
) -> None:
    """Only a server from the configuration is known."""
    async with scripted_replica(redis_url, "configured", good()) as server:
        config = f"[[replicas]]\nname = 'configured'\nurl = '{server.url}'\n"
        with running_gateway(f"redis://127.0.0.1:{free_port()}/0", config) as gateway:
            await until_known(client, gateway.url, "configured")
            async with client.post(f"{gateway.url}/v1/completions", json={"model": "m", "prompt": "x"}) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (503, "state_unavailable")
            async with client.post(f"{gateway.url}/v1/completions", json={"model": MODEL, "prompt": "x"}) as answer:
                assert (answer.status, answer.headers["x-slo-admission"]) == (200, "best-effort")
