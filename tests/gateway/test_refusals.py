"""Nobody is refused for what is only guessed, or told to come back for what will be no different then."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.gateway.conftest import Start
from tests.gateway.scripted import good
from tests.processes import Process

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
