"""Nobody is refused for what is only guessed, or told to come back for what will be no different then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import Start, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.processes import Process, running_gateway, running_valkey

CHAT = {"messages": [{"role": "user", "content": "Hi there"}]}
TEXT = {"prompt": "Hi there"}
COUNTED = {"prompt": [1, 2, 3]}
EXACT = {"max_tokens": 200, "ignore_eos": True}


@pytest.mark.parametrize(
    ("path", "prompt", "slo", "status", "told"),
    [
        ("completions", COUNTED, {"x-slo-ttft-ms": "2"}, 400, "false"),
        ("completions", COUNTED, {"x-slo-tpot-ms": "0.5"}, 400, "false"),
        ("completions", COUNTED, {"x-slo-e2e-ms": "2"}, 400, "false"),
        ("completions", COUNTED | EXACT, {"x-slo-e2e-ms": "500"}, 400, "false"),
        ("completions", COUNTED, {"x-slo-e2e-ms": "60000"}, 200, "guaranteed"),
        ("completions", TEXT, {"x-slo-e2e-ms": "2"}, 200, "best-effort"),
        ("completions", TEXT, {"x-slo-ttft-ms": "2"}, 200, "best-effort"),
        ("chat/completions", CHAT, {"x-slo-ttft-ms": "2"}, 200, "best-effort"),
        ("chat/completions", CHAT, {"x-slo-tpot-ms": "0.5"}, 200, "best-effort"),
        ("chat/completions", CHAT, {"x-slo-ttft-ms": "900"}, 200, "guaranteed"),
    ],
)
async def test_a_class_that_rejects_serves_what_only_an_estimate_puts_out_of_reach(
    gateway: Process, client: aiohttp.ClientSession, replica: Start, model: str,
    path: str, prompt: dict[str, Any], slo: dict[str, str], status: int, told: str,
) -> None:  # fmt: skip
    asked = {"model": model, "max_tokens": 2, **prompt}
    async with replica("a", good()):
        headers = {"x-slo-class": "interactive", **slo}
        async with client.post(f"{gateway.url}/v1/{path}", json=asked, headers=headers) as answer:
            assert answer.status == status
            assert answer.headers["x-should-retry" if status == 400 else "x-slo-admission"] == told
            assert "retry-after" not in answer.headers


@pytest.fixture(scope="module")
def strict(redis_url: str) -> Iterator[Process]:
    """A gateway whose classes ask for more than any replica can keep."""
    config = """
        admission = {default_class = "hasty"}
        [classes.hasty]
        ttft_ms = 2
        when_full = "reject"
        [classes.brisk]
        tpot_ms = 0.5
        when_full = "reject"
        service_tiers = ["priority"]
    """
    with running_gateway(redis_url, config) as process:
        yield process


@pytest.mark.parametrize(
    ("headers", "tier", "param", "said"),
    [
        ({}, {}, "x-slo-class", "the SLO of class 'hasty': a TTFT of 2 ms"),
        ({"x-slo-class": "brisk"}, {}, "x-slo-class", "the SLO of class 'brisk': a TPOT of 0.5 ms"),
        ({}, {"service_tier": "priority"}, "service_tier", "the SLO of class 'brisk': a TPOT of 0.5 ms"),
        ({"x-slo-ttft-ms": "1"}, {}, "x-slo-ttft-ms", "a TTFT of 1 ms"),
        ({"x-llm-d-slo-ttft-ms": "1"}, {}, "x-llm-d-slo-ttft-ms", "a TTFT of 1 ms"),
        ({"x-slo-ttft-ms": "900", "x-slo-tpot-ms": "0.1"}, {}, "x-slo-tpot-ms", "a TPOT of 0.1 ms"),
        ({"x-slo-ttft-ms": "900", "x-slo-e2e-ms": "1"}, {}, "x-slo-e2e-ms", "1 ms for the whole answer"),
    ],
)
async def test_a_refusal_names_what_its_client_can_change(
    strict: Process, client: aiohttp.ClientSession, redis_url: str, model: str,
    headers: dict[str, str], tier: dict[str, str], param: str, said: str,
) -> None:  # fmt: skip
    async with scripted_replica(redis_url, model, good(), model=model):
        await until_known(client, strict.url, model)
        asked = {"model": model, "max_tokens": 2, **COUNTED, **tier}
        async with client.post(f"{strict.url}/v1/completions", json=asked, headers=headers) as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["code"], error["param"]) == (400, "slo_unreachable", param)
        assert error["message"].startswith(said)


async def test_without_a_profile_another_model_is_what_a_client_can_ask_for(
    client: aiohttp.ClientSession, redis_url: str
) -> None:
    async with scripted_replica(redis_url, "bare", good()) as server:
        config = f"[classes.a]\nttft_ms = 900\nwhen_full = 'reject'\n[[replicas]]\nname = 'b'\nurl = '{server.url}'\n"
        with running_valkey() as empty, running_gateway(empty.url, config) as gateway:
            await until_known(client, gateway.url, "b")
            body = {"model": MODEL, "max_tokens": 2, **COUNTED}
            async with client.post(f"{gateway.url}/v1/completions", json=body, headers={"x-slo-class": "a"}) as answer:
                error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "slo_unsupported", "model")
