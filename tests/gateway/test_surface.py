"""The paths and fields of OpenAI, vLLM and Anthropic, and what only the gateway may say on any of them."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import aiohttp
import openai
import pytest
from yarl import URL

from slosgate.gateway.http.paths import canonical
from slosgate.gateway.promises.completion import parse
from tests.gateway.conftest import Start, until_known
from tests.gateway.scripted import Call, good, humble, scripted_replica
from tests.processes import Process, running_gateway, running_valkey

CLAIMS = {"vllm_xargs": {"slo_guaranteed": 1, "Slo_weight": 9, "mine": 5}, "priority": -9, "request_id": "victim"}
SPELLINGS = [
    "/v1/chat/completions", "/v1/chat/completions/", "//v1//chat/completions", "/V1/Chat/Completions",
    "/v1/./chat/completions", "/v1/x/../chat/completions", "/v1/%63hat/completions", "/v1%2Fchat%2fcompletions",
]  # fmt: skip
THROUGH = [
    "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/rerank", "/rerank", "/v2/rerank", "/score", "/v1/score",
    "/pooling", "/classify", "/v1/chat/completions/render", "/v1/completions/render",
]  # fmt: skip


async def send(client: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """POST to a path that is spelt just so."""
    async with client.post(URL(url + path, encoded=True), json=body) as answer:
        return answer.status, answer.headers.get("x-slo-admission", "")


@pytest.mark.parametrize("path", SPELLINGS)
async def test_every_spelling_of_a_path_is_admitted(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    async with replica("a", good()) as server:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, **CLAIMS}
        assert (await send(client, gateway.url, path, body))[0] == 200
        call = server.calls[0]
    assert call.path == "/v1/chat/completions"
    told = call.body["vllm_xargs"]
    assert told["slo_id"].startswith("req-")
    assert told["mine"] == 5
    assert not {"Slo_weight", "priority"} & {*told, *call.body}
    assert told.get("slo_guaranteed", 0) == 0
    assert "request_id" not in call.body


@pytest.mark.parametrize("path", THROUGH)
async def test_claims_are_taken_from_what_is_handed_through(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    async with replica("a", humble) as server:
        status, admission = await send(client, gateway.url, path, {"model": model, "input": "x", **CLAIMS})
        assert (status, admission) == (200, "best-effort")
        assert server.calls[0].path == path
        assert server.calls[0].body == {"model": model, "input": "x", "vllm_xargs": {"mine": 5}}


@pytest.mark.parametrize(
    "path",
    ["/v1/load_lora_adapter", "/v1/Load_Lora_Adapter/", "/v1/%6coad_lora_adapter", "/v1/chat/../unload_lora_adapter",
     "/sleep", "/v1/sleep", "/reset_prefix_cache", "/v1/collective_rpc"],
)  # fmt: skip
async def test_replicas_are_not_managed_by_clients(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    async with replica("a", humble) as server:
        assert (await send(client, gateway.url, path, {"model": model}))[0] == 404
        assert server.calls == []


async def test_forms_are_routed_by_their_model_and_lose_their_claims(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    bodies: list[bytes] = []

    async def hears(call: Call) -> None:
        bodies.append(call.text)
        await call.head(kind="application/json")
        await call.chunk(b'{"text": "x"}')
        await call.end()

    async with replica("a", hears) as server:
        form = aiohttp.FormData()
        form.add_field("file", b"\x00\xff--\r\n\r\n", filename="a.wav", content_type="audio/wav")
        for name, value in (("model", model), ("priority", "-9"), ("vllm_xargs[slo_weight]", "9"), ("language", "en")):
            form.add_field(name, value)
        async with client.post(f"{gateway.url}/v1/audio/transcriptions", data=form) as answer:
            assert (answer.status, answer.headers["x-slo-replica"]) == (200, server.name)
        fields = aiohttp.FormData({"model": "no-such-model", "a": "b"})
        async with client.post(f"{gateway.url}/v1/audio/transcriptions", data=fields) as answer:
            assert answer.status == 404
    assert b"\x00\xff--\r\n\r\n" in bodies[0]
    assert b"language" in bodies[0]
    assert b"slo_weight" not in bodies[0]
    assert b"priority" not in bodies[0]


async def test_a_model_can_be_looked_up_by_its_id(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()):
        sdk = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0)
        assert (await sdk.models.retrieve(model)).id == model
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("org/none")
        await sdk.close()


@pytest.mark.parametrize(
    ("kind", "fields", "tokens"),
    [
        ("chat", {"max_tokens": 9, "max_completion_tokens": 5}, 5),
        ("chat", {"max_tokens": 9}, 9),
        ("chat", {}, None),
        ("chat", {"max_tokens": None}, None),
        ("completions", {"max_tokens": 9, "max_completion_tokens": 5}, 9),
        ("completions", {"max_completion_tokens": 5}, 16),
        ("completions", {"max_tokens": None}, 16),
        ("completions", {"max_tokens": 1e3}, 1000),
        ("completions", {"max_tokens": "12"}, 12),
        ("completions", {"max_tokens": " 12 ", "stream": "yes", "prompt_cache_key": 7}, 12),
        ("completions", {"max_tokens": True, "echo": 1.0}, 1),
        ("completions", {"max_tokens": 0, "echo": True}, 1),
    ],
)
def test_max_tokens_is_read_as_vllm_reads_it(kind: Any, fields: dict[str, Any], tokens: int | None) -> None:
    body = {"model": "m", "prompt": "x", "messages": [{"role": "user", "content": "x"}], **fields}
    assert parse(json.dumps(body).encode(), kind).max_tokens == tokens


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [[7] * 1500, [8] * 1500]},
        {"prompt": [7] * 2500, "truncate_prompt_tokens": 100},
        {"prompt": [[7] * 2500, [8] * 2500], "truncate_prompt_tokens": -1},
        {"prompt_embeds": "AAAA"},
        {"prompt": "x", "max_tokens": 0, "echo": True},
        {"prompt": "x", "n": 1.0},
    ],
    ids=["each prompt has its window", "truncated", "each truncated", "embeddings", "scoring", "whole floats"],
)
async def test_what_vllm_serves_is_not_refused(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, body: dict[str, Any]
) -> None:
    async with replica("a", humble):
        for slo in ({}, {"x-slo-ttft-ms": "5000"}):
            ask = {"model": model, "max_tokens": 4, **body}
            async with client.post(f"{gateway.url}/v1/completions", json=ask, headers=slo) as answer:
                assert answer.status == 200, await answer.text()


async def test_the_only_model_need_not_be_named(client: aiohttp.ClientSession) -> None:
    with running_valkey() as redis, running_gateway(redis.url) as gateway:
        url, body = f"{gateway.url}/v1/completions", {"prompt": "x", "max_tokens": 1}
        async with client.post(url, json=body) as answer:
            assert answer.status == 503
        async with scripted_replica(redis.url, "a", good(), model="first"):
            await until_known(client, gateway.url, "a")
            async with client.post(url, json=body) as answer:
                assert answer.status == 200, await answer.text()
            async with scripted_replica(redis.url, "b", good(), model="second"):
                await until_known(client, gateway.url, "b")
                async with client.post(url, json=body) as answer:
                    error = (await answer.json())["error"]
    assert (answer.status, error["param"]) == (400, "model")
    assert "name one of first, second" in error["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_a_byte_order_mark_is_skipped(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str
) -> None:
    async with replica("a", humble) as server:
        data = b"\xef\xbb\xbf" + json.dumps({"model": model, "prompt": "x", **CLAIMS}).encode()
        async with client.post(gateway.url + path, data=data) as answer:
            assert answer.status == 200, await answer.text()
        assert server.calls[0].body["prompt"] == "x"
        assert "request_id" not in server.calls[0].body


@pytest.mark.parametrize("limit", ["9" * 5000, "²", "-1", "1e3"])
async def test_no_limit_of_records_fails_the_gateway(
    gateway: Process, client: aiohttp.ClientSession, limit: str
) -> None:
    url = f"{gateway.url}/admin/requests?limit={urllib.parse.quote(limit)}"
    async with client.get(url, headers={"authorization": "Bearer admin"}) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","prompt":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","prompt":"x","max_tokens":1' + b"0" * 30 + b',"n":1' + b"0" * 30 + b"}",
        b'{"model":"m","prompt":"\\ud800"}',
        b'{"model":"m","prompt":"x","vllm_xargs":{"a":1e999,"slo_weight":9}}',
    ],
    ids=["nested", "nested prompt", "huge numbers", "half a surrogate", "beyond all numbers"],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_no_body_fails_the_gateway(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str, path: str, body: bytes
) -> None:
    async with replica("a", humble) as server:
        data = body.replace(b'"m"', json.dumps(model).encode(), 1)
        async with client.post(gateway.url + path, data=data, headers={"content-type": "application/json"}) as answer:
            assert answer.status < 500
        assert all(b"slo_weight" not in call.text or "slo_id" in call.body["vllm_xargs"] for call in server.calls)


def test_ids_keep_their_case() -> None:
    assert canonical("/V1/Models/Org/Chat-7B/") == "/v1/models/Org/Chat-7B"
    assert canonical("/v1/responses/resp_AbC") == "/v1/responses/resp_AbC"
    assert canonical("/../..//") == "/"
