"""/v1/messages: errors there are Anthropic's, whoever makes them."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import Start, until_known
from tests.gateway.scripted import Call, dies_at_once, humble, scripted_replica
from tests.processes import Process, running_gateway, running_valkey

ASK = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
KEYS = f'[keys.a]\nsha256 = "{sha256(b"known").hexdigest()}"\nrequests_per_minute = 1\n'


def is_anthropic(body: dict[str, Any], type_: str, said: str) -> bool:
    return body["type"] == "error" and body["error"]["type"] == type_ and said in body["error"]["message"]


async def test_a_message_is_answered(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", humble) as server:
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        async with client.post(f"{gateway.url}/v1/messages", json={"model": model, **ASK}, headers=headers) as answer:
            assert (answer.status, answer.headers["x-slo-replica"]) == (200, server.name)
        assert server.calls[0].headers["anthropic-version"] == "2023-06-01"
        assert server.calls[0].headers["x-api-key"] == "k"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/V1//messages/"])
async def test_what_the_gateway_refuses_is_told_as_anthropic_does(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    async with replica("a", humble):
        async with client.post(gateway.url + path, json={"model": "claude", **ASK}) as answer:
            assert (answer.status, answer.headers["x-should-retry"]) == (404, "false")
            assert is_anthropic(await answer.json(), "not_found_error", "no such model: 'claude'")
        async with client.post(gateway.url + path, data=b"{", headers={"content-type": "application/json"}) as answer:
            assert answer.status == 400
            assert is_anthropic(await answer.json(), "invalid_request_error", "not valid JSON")


async def test_a_dead_replica_is_told_as_anthropic_does(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    ask = {"model": model, **ASK}
    async with replica("a", dies_at_once) as server, client.post(f"{gateway.url}/v1/messages", json=ask) as answer:
        assert answer.status == 503
        assert is_anthropic(await answer.json(), "overloaded_error", server.name)


async def test_what_a_replica_says_without_json_is_quoted_as_anthropic_does(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async def teapot(call: Call) -> None:
        await call.head(418, "text/plain")
        await call.chunk(b"short and stout")
        await call.end()

    ask = {"model": model, **ASK}
    async with replica("a", teapot), client.post(f"{gateway.url}/v1/messages", json=ask) as answer:
        assert answer.status == 418
        assert is_anthropic(await answer.json(), "invalid_request_error", "short and stout")


async def test_keys_and_their_limits_are_told_as_anthropic_does(client: aiohttp.ClientSession) -> None:
    with running_valkey() as redis, running_gateway(redis.url, KEYS) as gateway:
        async with scripted_replica(redis.url, "a", humble):
            url = f"{gateway.url}/v1/messages"
            await until_known(client, gateway.url, "a")
            async with client.post(url, json=ASK, headers={"x-api-key": "unknown"}) as answer:
                assert answer.status == 401
                assert is_anthropic(await answer.json(), "authentication_error", "missing or unknown")
            async with client.post(url, json=ASK, headers={"x-api-key": "known"}) as answer:
                assert answer.status == 200
            async with client.post(url, json=ASK, headers={"x-api-key": "known"}) as answer:
                assert answer.status == 429
                assert is_anthropic(await answer.json(), "rate_limit_error", "1 requests a minute")
                assert int(answer.headers["retry-after-ms"]) > 0
