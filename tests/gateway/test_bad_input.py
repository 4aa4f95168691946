"""Every refusal is an OpenAI error that names the field and what is accepted."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import Start
from tests.gateway.scripted import good
from tests.processes import Process

GOOD: dict[str, Any] = {"prompt": [5, 6, 7], "max_tokens": 2}


async def refusal(client: aiohttp.ClientSession, url: str, data: bytes, headers: dict[str, str]) -> dict[str, Any]:
    async with client.post(url, data=data, headers={"content-type": "application/json", **headers}) as answer:
        body = await answer.json()
        assert answer.headers["x-request-id"].startswith("req-")
        return {"status": answer.status, "retry": answer.headers.get("x-should-retry"), **body["error"]}


CASES: list[tuple[str, dict[str, Any], dict[str, str], int, str | None, str]] = [
    ("unknown model", {**GOOD, "model": "gpt-9"}, {}, 404, "model", "no such model: 'gpt-9'; accepted: "),
    ("no prompt", {"max_tokens": 2}, {}, 400, "prompt", "prompt is missing"),
    ("empty prompt", {"prompt": []}, {}, 400, "prompt", "prompt must be a string, a list of token ids"),
    ("prompt of another type", {"prompt": 5}, {}, 400, "prompt", "prompt must be a string"),
    ("model of another type", {**GOOD, "model": 5}, {}, 400, "model", "Expected `str | null`, got `int`"),
    ("stream of another type", {**GOOD, "stream": "maybe"}, {}, 400, "stream", "Expected `bool | null`, got `str`"),
    ("no tokens wanted", {**GOOD, "max_tokens": 0}, {}, 400, "max_tokens", "max_tokens must be at least 1, not 0"),
    ("negative SLO", GOOD, {"x-slo-ttft-ms": "-5"}, 400, "x-slo-ttft-ms", "must be a positive number of milliseconds"),
    ("word as an SLO", GOOD, {"x-slo-tpot-ms": "fast"}, 400, "x-slo-tpot-ms", "must be a positive number"),
    ("TTFT below zero load", GOOD, {"x-slo-ttft-ms": "1"}, 400, "x-slo-ttft-ms", "accepted: at least that"),
    ("TPOT below zero load", GOOD, {"x-slo-tpot-ms": "1"}, 400, "x-slo-tpot-ms", "accepted: at least that"),
    ("unknown class", GOOD, {"x-slo-class": "gold"}, 400, "x-slo-class", "must be one of interactive, batch, default"),
    ("no number", {**GOOD, "temperature": float("nan")}, {}, 400, "temperature", "accepted: finite numbers"),
    (
        "within a list",
        {**GOOD, "logit_bias": [{"1": float("-inf")}]},
        {},
        400,
        "logit_bias",
        "accepted: finite numbers",
    ),
    ("beyond the window", {"prompt": [1] * 2048}, {}, 400, "prompt", "2048 tokens; accepted: at most 2047"),
]


@pytest.mark.parametrize(
    ("body", "headers", "status", "param", "said"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
async def test_bad_input_names_the_field_and_what_is_accepted(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
    body: dict[str, Any], headers: dict[str, str], status: int, param: str | None, said: str,
) -> None:  # fmt: skip
    async with replica("a", good()) as server:
        data = json.dumps({"model": model, **body}).encode()
        error = await refusal(client, f"{gateway.url}/v1/completions", data, headers)
        assert (error["status"], error["param"], error["retry"]) == (status, param, "false")
        assert error["type"] == "invalid_request_error"
        assert said in error["message"]
        assert server.calls == []


async def test_numbers_that_json_does_not_have_are_named_on_every_path(
    gateway: Process, client: aiohttp.ClientSession
) -> None:
    for path in ("/v1/embeddings", "/v1/chat/completions", "/v1/responses"):
        error = await refusal(client, gateway.url + path, b'{"model": "a", "temperature": -Infinity}', {})
        assert (error["status"], error["param"]) == (400, "temperature")


async def test_a_chat_needs_messages(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str
) -> None:
    async with replica("a", good()):
        for body in ({"model": model}, {"model": model, "messages": []}):
            error = await refusal(client, f"{gateway.url}/v1/chat/completions", json.dumps(body).encode(), {})
            assert (error["status"], error["param"]) == (400, "messages")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": "a"', b"\xff\xfe", b'"text"', b"{" * 5000])
async def test_what_is_no_json_object_is_refused(gateway: Process, client: aiohttp.ClientSession, body: bytes) -> None:
    error = await refusal(client, f"{gateway.url}/v1/completions", body, {})
    assert error["status"] == 400


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_beyond_the_limit_is_refused(
    gateway: Process, client: aiohttp.ClientSession, announced: bool
) -> None:
    async def parts() -> Any:
        for _ in range(201):
            yield b" " * 100_000

    data = BytesIO(b" " * 20_000_001) if announced else parts()
    async with client.post(f"{gateway.url}/v1/completions", data=data) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == "request_too_large"


async def test_paths_and_methods_that_do_not_exist_are_openai_errors_too(
    gateway: Process, client: aiohttp.ClientSession
) -> None:
    async with client.get(f"{gateway.url}/nowhere") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
    async with client.get(f"{gateway.url}/v1/completions") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (405, "method_not_allowed")
