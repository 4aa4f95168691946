"""Paths that slosgate doesn't plan for reach a replica that knows them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.gateway.conftest import Start, until_known
from tests.gateway.scripted import Call, dies_at_once, good, scripted_replica
from tests.processes import Process, running_gateway


async def embeds(call: Call) -> None:
    await call.head(kind="application/json")
    await call.chunk(b'{"object": "list", "data": []}')
    await call.end()


async def knows_nothing(call: Call) -> None:
    await call.head(404, "application/json")
    await call.chunk(b"{}")
    await call.end()


async def breaks_off(call: Call) -> None:
    await call.head(kind="application/json")
    await call.chunk(b'{"object": ')
    call.writer.transport.abort()


async def test_a_capable_replica_answers(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", knows_nothing), replica("b", dies_at_once), replica("c", embeds) as server:
        ask = {"model": model, "input": "text"}
        async with client.post(f"{gateway.url}/v1/embeddings", json=ask) as answer:
            assert answer.status == 200
            assert await answer.json() == {"object": "list", "data": []}
            assert answer.headers["x-slo-replica"] == server.name
            assert answer.headers["x-slo-admission"] == "best-effort"
        assert server.calls[0].path == "/v1/embeddings"
        assert server.calls[0].body == ask


async def speaks_plainly(call: Call) -> None:
    await call.head(404, "text/plain")
    await call.chunk(b"Not Found")
    await call.end()


async def test_errors_are_openai_errors(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", dies_at_once):
        async with client.post(f"{gateway.url}/v1/embeddings", json={"model": "gpt-9"}) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (404, "model")
        async with client.post(f"{gateway.url}/v1/responses", json={"model": model}) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "replica_lost")
    async with replica("b", speaks_plainly), client.post(f"{gateway.url}/tokenize", json={"model": model}) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (404, "not_found")
        assert error["message"] == f"no replica of {model!r} answers POST /tokenize"


async def test_an_answer_that_breaks_off_is_seen_to_break_off(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    url = f"{gateway.url}/v1/responses"
    async with replica("a", breaks_off), client.post(url, json={"model": model}) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_an_answer_that_stalls_ends_with_one_line_in_the_log(
    redis_url: str, client: aiohttp.ClientSession, model: str
) -> None:
    async def stalls(call: Call) -> None:
        await call.head()
        await call.chunk(b"data: {}\n\n")
        await asyncio.sleep(30)

    with running_gateway(redis_url, "[server]\nrequest_timeout_s = 1\n") as gateway:
        async with scripted_replica(redis_url, "a", stalls, model=model) as server:
            await until_known(client, gateway.url, server.name)
            async with client.post(f"{gateway.url}/v1/responses", json={"model": model}) as answer:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
        assert "Traceback" not in gateway.log.read_text()


async def test_what_is_handed_through_is_counted(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()):
        for body in ({"model": model}, {"model": "none-such"}):
            async with client.post(f"{gateway.url}/v1/embeddings", json=body) as answer:
                await answer.read()
    async with client.get(f"{gateway.url}/metrics") as answer:
        page = await answer.text()
    assert 'slosgate_handed_through_total{resource="embeddings",status="2xx"} ' in page
    assert 'slosgate_refused_requests_total{code="model_not_found"}' in page


async def test_an_answer_in_one_piece_may_come_slowly(
    redis_url: str, client: aiohttp.ClientSession, model: str
) -> None:
    async def trickles(call: Call) -> None:
        await call.head(kind="application/json")
        for part in (b'{"choices"', b": ", b"[", b"]", b"}"):
            await call.chunk(part)
            await asyncio.sleep(0.4)
        await call.end()

    with running_gateway(redis_url, "[server]\nrequest_timeout_s = 1\n") as gateway:
        async with scripted_replica(redis_url, "a", trickles, model=model) as server:
            await until_known(client, gateway.url, server.name)
            asked = {"model": model, "prompt": "x", "max_tokens": 4}
            async with client.post(f"{gateway.url}/v1/completions", json=asked) as answer:
                assert (answer.status, await answer.json()) == (200, {"choices": []})
