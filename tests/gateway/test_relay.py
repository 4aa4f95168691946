"""What a client sees of replicas that misbehave."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import Start, eventually, ledger_size
from tests.gateway.scripted import (
    Script,
    busy,
    dies_after_two,
    dies_at_once,
    garbage,
    good,
    half_an_event,
    not_http,
    stalls,
)  # fmt: skip
from tests.processes import Process


def request(model: str, **extra: Any) -> dict[str, Any]:
    return {"model": model, "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True, **extra}


async def events(answer: aiohttp.ClientResponse) -> list[Any]:
    """The data of a stream's events; every one must be whole."""
    text = (await answer.read()).decode()
    assert text.endswith("\n\n")
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in data]


async def test_streams_pass_unchanged(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()) as server:
        async with client.post(f"{gateway.url}/v1/completions", json=request(model, stream=True)) as answer:
            got = await events(answer)
        assert [event["choices"][0]["text"] for event in got[:-1]] == ["t0 ", "t1 ", "t2 ", "t3 "]
        assert got[-1] == "[DONE]"
        assert answer.headers["x-slo-admission"] == "best-effort"
        assert answer.headers["x-slo-replica"] == server.name


async def test_an_slo_is_admitted_told_to_the_replica_and_to_the_client(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()) as server:
        slo = {"x-slo-ttft-ms": "800", "x-slo-tpot-ms": "50"}
        async with client.post(f"{gateway.url}/v1/completions", json=request(model), headers=slo) as answer:
            body = await answer.json()
        assert body["choices"][0]["text"] == "t0 t1 t2 t3 "
        assert answer.headers["x-slo-admission"] == "guaranteed"
        assert 0 < float(answer.headers["x-slo-predicted-ttft-ms"]) <= 800
        told = server.calls[0].body["vllm_xargs"]
        assert told["slo_id"] == answer.headers["x-request-id"]
        assert 0 < told["slo_ttft_ms"] <= 800
        assert (told["slo_tpot_ms"], told["slo_guaranteed"], told["slo_output_tokens"]) == (50, 1, 4)
        await eventually(lambda: any(told["slo_id"] in plan.guaranteed for plan in server.plans))


async def test_the_clients_own_arguments_reach_the_replica_but_not_its_claims(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()) as server:
        body = request(model, vllm_xargs={"mine": 1, "slo_guaranteed": 1}, logprobs=2)
        async with client.post(f"{gateway.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
        told = server.calls[0].body
        assert told["logprobs"] == 2
        assert told["vllm_xargs"]["mine"] == 1
        assert told["vllm_xargs"].get("slo_guaranteed", 0) == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_the_served_tier_is_echoed(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, stream: bool
) -> None:
    async with replica("a", good()):
        body = request(model, service_tier="priority", stream=stream)
        async with client.post(f"{gateway.url}/v1/completions", json=body) as answer:
            first = (await events(answer))[0] if stream else await answer.json()
        assert first["service_tier"] == "priority"
        assert answer.headers["x-slo-service-tier"] == "priority"
        assert answer.headers["x-slo-class"] == "interactive"


@pytest.mark.parametrize("script", [dies_at_once, garbage, not_http, busy])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_replica_that_fails_before_its_first_token_is_replaced_unseen(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, redis_url: str,
    script: Script, stream: bool,
) -> None:  # fmt: skip
    async with replica("bad", script) as bad, replica("good", good()) as fine:
        seen = set()
        for _ in range(4):
            async with client.post(f"{gateway.url}/v1/completions", json=request(model, stream=stream)) as answer:
                assert answer.status == 200
                text = await answer.text()
                assert "t3 " in text
                assert "error" not in text
                seen.add(answer.headers["x-slo-replica"])
        assert seen == {fine.name}
        for name in (bad.name, fine.name):
            await eventually(partial(_empty, redis_url, name))


async def _empty(redis_url: str, name: str) -> bool:
    return await ledger_size(redis_url, name) == 0


@pytest.mark.parametrize("script", [dies_after_two, half_an_event])
async def test_after_the_first_token_a_replicas_death_is_an_error_event(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, redis_url: str, script: Script
) -> None:
    async with replica("bad", script) as bad, replica("good", good()) as fine:
        fine.busy_for(60)  # so that the other one is chosen
        await fine.reported()
        async with client.post(f"{gateway.url}/v1/completions", json=request(model, stream=True)) as answer:
            got = await events(answer)
        assert answer.headers["x-slo-replica"] == bad.name
        assert got[0]["choices"][0]["text"] == "t0 "
        assert got[-1]["error"]["code"] == "replica_lost"
        assert bad.name in got[-1]["error"]["message"]
        assert fine.calls == []
        await eventually(lambda: _empty(redis_url, bad.name))


async def test_without_another_replica_the_client_is_told_to_come_back(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("bad", dies_at_once) as bad:
        async with client.post(f"{gateway.url}/v1/completions", json=request(model)) as answer:
            error = (await answer.json())["error"]
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert bad.name in error["message"]


@pytest.mark.parametrize("script", [good(token_s=0.02), stalls])
async def test_a_client_that_hangs_up_frees_its_replica_and_the_ledger(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, redis_url: str, script: Script
) -> None:
    async with replica("a", script) as server:
        body = request(model, stream=True, max_tokens=1000)
        asked = asyncio.create_task(client.post(f"{gateway.url}/v1/completions", json=body).__aenter__())
        await eventually(lambda: bool(server.calls))
        await eventually(lambda: _holds_one(redis_url, server.name))
        if script is not stalls:
            (await asked).close()
        asked.cancel()
        await eventually(lambda: server.hang_ups == 1)
        await eventually(lambda: _empty(redis_url, server.name))


async def _holds_one(redis_url: str, name: str) -> bool:
    return await ledger_size(redis_url, name) == 1


async def test_a_stalled_replica_is_given_up_when_its_heartbeat_ends(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("stuck", stalls) as stuck, replica("good", good()) as fine:
        fine.busy_for(60)
        await fine.reported()
        asked = asyncio.create_task(_status(client, gateway, model))
        await eventually(lambda: bool(stuck.calls))
        fine.busy_for(0)
        await stuck.fall_silent()
        assert await asked == (200, fine.name)


async def _status(client: aiohttp.ClientSession, gateway: Process, model: str) -> tuple[int, str]:
    async with client.post(f"{gateway.url}/v1/completions", json=request(model)) as answer:
        await answer.read()
        return answer.status, answer.headers["x-slo-replica"]
