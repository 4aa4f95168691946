"""Loops of calls through a real gateway and real simulated replicas: what was said before need not be computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from slosgate.engines import profiles
from tests.gateway.conftest import ADMIN, CONFIG
from tests.processes import Process, running_engine, running_gateway

HARDWARE = "h200-llama-3.1-8b"
H200 = profiles.load(HARDWARE)
SYSTEM = list(range(1000, 13000))  # takes a replica long enough to tell whether it was cached
NEW = 40  # tokens of each later call


@pytest.fixture(scope="module")
def loops(redis_url: str) -> Iterator[Process]:
    config = CONFIG + "[classes.agent]\nttft_slowdown = 8\ntpot_ms = 100\n"
    with (
        running_gateway(redis_url, config, wait=False) as process,
        running_engine(redis_url, "loops-a", "--model", "loops", "--hardware", HARDWARE, wait=False) as engine,
    ):
        engine.wait_until_up()
        process.wait_until_up("/ready", needs=["loops-a"])
        yield process


async def call(
    client: aiohttp.ClientSession, gateway: Process, prompt: list[int], **headers: str
) -> tuple[aiohttp.ClientResponse, dict[str, Any]]:
    body = {"model": "loops", "prompt": prompt, "max_tokens": 8, "ignore_eos": True}
    async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as answer:
        return answer, await answer.json()


async def test_later_calls_of_a_loop_are_promised_what_only_a_cache_can_keep(
    loops: Process, client: aiohttp.ClientSession
) -> None:
    """Three calls teach the gateway that the replica has what it was sent; from then on it promises on that."""
    prompt, said = SYSTEM, []
    for _ in range(8):
        slo_ms = 1000 * 0.8 * H200.zero_load_ttft_s(len(SYSTEM)) if len(prompt) > len(SYSTEM) else 5000.0
        headers = {"x-slo-ttft-ms": f"{slo_ms:.1f}", "x-slo-tpot-ms": "400"}
        answer, body = await call(client, loops, prompt, **headers)
        assert answer.status == 200, body
        said.append((answer.headers["x-slo-admission"], body["usage"]["prompt_tokens_details"]["cached_tokens"]))
        record = await recorded(client, loops, answer.headers["x-slo-request-id"])
        assert record["cached_tokens"] == said[-1][1]
        prompt = [*prompt, *[1000] * 8, *range(3000 + len(prompt), 3000 + len(prompt) + NEW)]
    assert said[0] == ("guaranteed", 0)
    assert all(cached > 0.9 * len(SYSTEM) for _, cached in said[1:])
    assert [admission for admission, _ in said[5:]] == ["guaranteed"] * 3
    assert 0 < record["expected_cached_tokens"] <= said[-1][1]


async def test_an_slo_by_slowdown_is_of_what_is_not_cached(loops: Process, client: aiohttp.ClientSession) -> None:
    prompt, slos_ms = [7, *SYSTEM], []
    for _ in range(6):
        answer, _ = await call(client, loops, prompt, **{"x-slo-class": "agent"})
        slos_ms.append(float(answer.headers["x-slo-effective-ttft-ms"]))
    assert slos_ms[0] == pytest.approx(8000 * H200.zero_load_ttft_s(len(prompt)), rel=0.01)
    assert slos_ms[-1] < 0.5 * slos_ms[0]


async def recorded(client: aiohttp.ClientSession, gateway: Process, request_id: str) -> dict[str, Any]:
    async with client.get(f"{gateway.url}/admin/requests/{request_id}", headers=ADMIN) as answer:
        found: dict[str, Any] = await answer.json()
        return found
