"""API keys: what their holders may ask for, and how much; and the records that explain each decision."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from slosgate.gateway.config import parse
from slosgate.gateway.errors import RateLimited
from slosgate.gateway.http.keys import Holder
from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import ScriptedReplica, good, scripted_replica, stalls
from tests.processes import Process, running_gateway


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


CONFIG = f"""
[admin]
sha256 = "{digest("root")}"
[classes.interactive]
ttft_ms = 1000
tpot_ms = 100
[classes.documents]
ttft_slowdown = 5
tpot_ms = 100
[keys.team-a]
sha256 = "{digest("secret-a")}"
classes = ["interactive"]
[keys.team-b]
sha256 = "{digest("secret-b")}"
classes = ["default"]
max_concurrent = 1
[keys.team-c]
sha256 = "{digest("secret-c")}"
requests_per_minute = 2
[keys.team-d]
sha256 = "{digest("secret-d")}"
default_class = "documents"
may_set_slo = true
"""


@pytest.fixture(scope="module")
def guarded(redis_url: str) -> Iterator[Process]:
    with ExitStack() as stack:
        yield stack.enter_context(running_gateway(redis_url, CONFIG))


def as_key(key: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", **{n.replace("_", "-"): v for n, v in headers.items()}}


@asynccontextmanager
async def replica(redis_url: str, url: str, model: str) -> AsyncIterator[ScriptedReplica]:
    async with aiohttp.ClientSession() as client, scripted_replica(redis_url, model, good(), model=model) as server:
        await until_known(client, url, model)
        yield server


def body(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": [1, 2], "max_tokens": 2}


@pytest.mark.parametrize("headers", [{}, as_key("guess"), {"authorization": "Basic secret-a"}, as_key("")])
async def test_an_unknown_key_is_refused(
    guarded: Process, client: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with client.post(f"{guarded.url}/v1/completions", json=body("m"), headers=headers) as answer:
        assert answer.status == 401
        assert (await answer.json())["error"]["code"] == "invalid_api_key"
    async with client.get(f"{guarded.url}/v1/models", headers=headers) as answer:
        assert answer.status == 401


async def test_a_key_brings_its_class_and_hides_the_clients_own_numbers(
    guarded: Process, client: aiohttp.ClientSession, redis_url: str, model: str
) -> None:
    async with replica(redis_url, guarded.url, model) as server:
        headers = as_key("secret-a", x_slo_ttft_ms="5")
        async with client.post(f"{guarded.url}/v1/completions", json=body(model), headers=headers) as answer:
            assert answer.headers["x-slo-class"] == "interactive"
            assert answer.headers["x-slo-admission"] == "guaranteed"
        assert server.calls[0].body["vllm_xargs"]["slo_tpot_ms"] == 100
        assert "authorization" not in server.calls[0].headers
        async with client.get(f"{guarded.url}/v1/models", headers=as_key("secret-a")) as answer:
            assert model in [m["id"] for m in (await answer.json())["data"]]


@pytest.mark.parametrize(("asked_ms", "holds"), [("60000", True), ("0.001", False)])
async def test_of_a_slowdown_and_a_clients_own_ttft_the_looser_holds(
    guarded: Process, client: aiohttp.ClientSession, redis_url: str, model: str, asked_ms: str, holds: bool
) -> None:
    async with replica(redis_url, guarded.url, model):
        headers = as_key("secret-d", x_slo_ttft_ms=asked_ms, x_slo_session="loop", x_slo_session_e2e_ms="9000")
        async with client.post(f"{guarded.url}/v1/completions", json=body(model), headers=headers) as answer:
            effective_ms = float(answer.headers["x-slo-effective-ttft-ms"])
            named = answer.headers["x-slo-ignored"].split(", ")
    assert (effective_ms == 60000) == holds
    assert effective_ms > 1
    assert named == ["x-slo-session-e2e-ms", *([] if holds else ["x-slo-ttft-ms"])]


async def test_a_class_that_a_key_lacks_is_forbidden(
    guarded: Process, client: aiohttp.ClientSession, redis_url: str, model: str
) -> None:
    headers = as_key("secret-b", x_slo_class="interactive")
    async with client.post(f"{guarded.url}/v1/completions", json=body(model), headers=headers) as answer:
        assert answer.status == 403
        assert "this API key may use default" in (await answer.json())["error"]["message"]


async def test_a_key_has_a_limit_on_requests_under_way(
    guarded: Process, client: aiohttp.ClientSession, redis_url: str, model: str
) -> None:
    async with replica(redis_url, guarded.url, model) as server:
        server.script = stalls
        async with aiohttp.ClientSession() as other:
            url = f"{guarded.url}/v1/completions"
            held = asyncio.create_task(_status(other, url, body(model), as_key("secret-b")))
            await eventually(lambda: bool(server.calls))
            async with client.post(url, json=body(model), headers=as_key("secret-b")) as answer:
                assert answer.status == 429
                assert (await answer.json())["error"]["code"] == "rate_limit_exceeded"
                assert int(answer.headers["retry-after-ms"]) > 0
            held.cancel()


async def _status(client: aiohttp.ClientSession, url: str, data: dict[str, Any], headers: dict[str, str]) -> int:
    async with client.post(url, json=data, headers=headers) as answer:
        return answer.status


def test_a_key_has_a_rate_and_learns_when_to_come_back() -> None:
    holder = Holder("team-c", parse(CONFIG).keys["team-c"])
    for _ in range(2):
        holder.enter(100.0)
    with pytest.raises(RateLimited) as refused:
        holder.enter(110.0)
    assert refused.value.retry_after_s == pytest.approx(20.0)
    holder.enter(131.0)


async def test_the_record_of_a_request_says_what_was_decided_and_what_happened(
    guarded: Process, client: aiohttp.ClientSession, redis_url: str, model: str
) -> None:
    async with replica(redis_url, guarded.url, model):
        url = f"{guarded.url}/v1/completions"
        async with client.post(url, json={**body(model), "stream": True}, headers=as_key("secret-a")) as answer:
            await answer.read()
        path = f"{guarded.url}/admin/requests/{answer.headers['x-request-id']}"
        async with client.get(path, headers=as_key("secret-a")) as refused:
            assert refused.status == 401
        async with client.get(path, headers=as_key("root")) as found:
            record = await found.json()
        assert (record["key"], record["slo_class"], record["outcome"]) == ("team-a", "interactive", "completed")
        assert record["attempts"][0] == {
            "replica": model,
            "guaranteed": True,
            "predicted_ttft_ms": float(record["attempts"][0]["predicted_ttft_ms"]),
            "reason": "fits",
        }
        assert (record["output_tokens"], record["attained"]) == (2, True)
        assert 0 < record["ttft_ms"] <= record["duration_ms"]
        async with client.get(f"{guarded.url}/admin/requests?limit=1", headers=as_key("root")) as found:
            assert [r["request_id"] for r in (await found.json())["data"]] == [record["request_id"]]
