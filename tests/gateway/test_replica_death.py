"""A replica is killed under load, with real engines behind the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import eventually, ledger_size, until_known
from tests.processes import Process, running_engine, running_gateway, running_valkey

MODEL = "facebook/opt-13b"


def ask(number: int, *, stream: bool, tokens: int = 40) -> dict[str, Any]:
    prompt = [number % 50] * 100
    return {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": stream}


async def outcome(client: aiohttp.ClientSession, url: str, number: int) -> str:
    """How one request ends: "tokens", "lost" with the replica named, or what should not happen."""
    body = ask(number, stream=number % 3 > 0)
    slo = {"x-slo-ttft-ms": "1000", "x-slo-tpot-ms": "100"} if number % 2 else {}
    async with client.post(f"{url}/v1/completions", json=body, headers=slo) as answer:
        text = await answer.text()
    return how_it_ended(text, 40) if body["stream"] else str(json.loads(text)["usage"]["completion_tokens"])


def how_it_ended(text: str, tokens: int) -> str:
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    if events[-1] == "[DONE]":
        return str(sum(bool(json.loads(event)["choices"][0]["text"]) for event in events[:-1]))
    error = json.loads(events[-1])["error"]
    return "lost" if error["code"] == "replica_lost" and "replica doomed " in error["message"] else text


async def stream_from_the_doomed(client: aiohttp.ClientSession, url: str, begun: asyncio.Event) -> str:
    """A long stream that the doomed replica has begun to answer; those that the other one answers are given up."""
    while True:
        async with client.post(f"{url}/v1/completions", json=ask(0, stream=True, tokens=1500)) as answer:
            if answer.headers["x-slo-replica"] == "doomed":
                begun.set()
                return how_it_ended(await answer.text(), 1500)
            await asyncio.sleep(0.1)


@dataclass
class Cluster:
    redis_url: str
    gateway: Process
    engines: dict[str, Process]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A gateway and two simulated replicas, started together."""
    with ExitStack() as stack:
        url = stack.enter_context(running_valkey()).url
        gateway = stack.enter_context(running_gateway(url, wait=False))
        engines = {n: stack.enter_context(running_engine(url, n, wait=False)) for n in ("doomed", "safe")}
        for process in (gateway, *engines.values()):
            process.wait_until_up()
        yield Cluster(url, gateway, engines)


async def test_a_client_that_hangs_up_frees_its_replica(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    url = cluster.gateway.url
    for name in cluster.engines:
        await until_known(client, url, name)
    async with client.post(f"{url}/v1/completions", json=ask(0, stream=True, tokens=1500)) as answer:
        await answer.content.readany()
        engine = cluster.engines[answer.headers["x-slo-replica"]]
        assert await running(client, engine.url) == 1
        answer.close()
    await eventually(partial(_is_idle, client, engine.url))
    await eventually(partial(_is_empty, cluster.redis_url, answer.headers["x-slo-replica"]))


async def test_every_request_ends_exactly_once_when_a_replica_is_killed(
    client: aiohttp.ClientSession, cluster: Cluster
) -> None:
    url = cluster.gateway.url
    for name in cluster.engines:
        await until_known(client, url, name)
    begun = asyncio.Event()
    asked = [asyncio.create_task(stream_from_the_doomed(client, url, begun))]
    for number in range(60):
        asked.append(asyncio.create_task(outcome(client, url, number)))
        await asyncio.sleep(0.02)
        if number == 30:
            await begun.wait()
            cluster.engines["doomed"].kill()
    ended = await asyncio.gather(*asked)
    assert ended[0] == "lost"
    assert set(ended) <= {"40", "lost"}
    for name in cluster.engines:
        await eventually(partial(_is_empty, cluster.redis_url, name))
    assert await outcome(client, url, 1) == "40"


async def _is_empty(redis_url: str, name: str) -> bool:
    return await ledger_size(redis_url, name) == 0


async def running(client: aiohttp.ClientSession, url: str) -> float:
    async with client.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


async def _is_idle(client: aiohttp.ClientSession, url: str) -> bool:
    return await running(client, url) == 0
