"""litellm on both sides: as the way out for what can't be guaranteed, and as a client in front of the gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from slosgate.gateway.cli import app
from slosgate.gateway.http.overflow import load_litellm
from tests.gateway.conftest import eventually, ledger_size, until_known
from tests.gateway.scripted import ScriptedReplica, dies_at_once, good, scripted_replica
from tests.gateway.test_chaos import running
from tests.processes import Process, running_engine, running_gateway, running_valkey

CONFIG = """
[classes.interactive]
ttft_ms = 400
tpot_ms = 100
when_full = "overflow"
overflow = "cloud"
service_tiers = ["priority"]

[classes.strict]
ttft_ms = 400
tpot_ms = 100
when_full = "reject"

[overflow.cloud]
model = "openai/elsewhere"
api_base = "{url}/v1"
api_key_env = "PATH"
"""
TIGHT = {"x-slo-class": "interactive"}


@dataclass
class Cloud:
    """A gateway, and a second, independent OpenAI-compatible server that it may overflow to."""

    gateway: Process
    provider: Process
    redis_url: str


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with ExitStack() as stack:
        urls = [stack.enter_context(running_valkey()).url for _ in range(2)]
        options = ("--model", "elsewhere", "--policy", "vllm")
        provider = stack.enter_context(running_engine(urls[1], "elsewhere", *options, wait=False))
        gateway = stack.enter_context(running_gateway(urls[0], CONFIG.format(url=provider.url), wait=False))
        load_litellm()  # takes this process as long as the gateway: side by side
        for process in (provider, gateway):
            process.wait_until_up()
        yield Cloud(gateway, provider, urls[0])


@pytest.fixture
async def full(cloud: Cloud, client: aiohttp.ClientSession, model: str) -> AsyncIterator[ScriptedReplica]:
    """The only replica of the test's model; it is busy for so long that nothing can be guaranteed there."""
    async with scripted_replica(cloud.redis_url, model, good(), model=model) as replica:
        replica.busy_for(600)
        await until_known(client, cloud.gateway.url, model)
        await replica.reported()
        yield replica


def chat(model: str, **extra: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 5, **extra}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["chat", "text"])
async def test_what_can_not_be_guaranteed_is_answered_elsewhere(
    cloud: Cloud, client: aiohttp.ClientSession, full: ScriptedReplica, model: str, stream: bool, kind: str
) -> None:
    body = chat(model, stream=stream, service_tier="priority", ignore_eos=True, api_base="http://127.0.0.1:9")
    path = "/v1/chat/completions"
    if kind == "text":
        path, body["prompt"] = "/v1/completions", "Count."
    async with client.post(cloud.gateway.url + path, json=body) as answer:
        text = await answer.text()
    assert answer.status == 200, text
    assert answer.headers["x-slo-replica"] == "overflow:cloud"
    assert answer.headers["x-slo-admission"] == "best-effort"
    assert answer.headers["x-slo-enforcement"] == "overflow"
    assert full.calls == []
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    if stream:
        assert events.pop() == "[DONE]"
    first = json.loads(events[0])
    assert first["service_tier"] == "flex"
    assert "elsewhere" in first["model"]
    assert await ledger_size(cloud.redis_url, full.name) == 0


async def test_token_ids_stay_here_as_best_effort(
    cloud: Cloud, client: aiohttp.ClientSession, full: ScriptedReplica, model: str
) -> None:
    body = {"model": model, "prompt": [1, 2, 3], "max_tokens": 4}
    async with client.post(f"{cloud.gateway.url}/v1/completions", json=body, headers=TIGHT) as answer:
        assert answer.headers["x-slo-replica"] == full.name
        assert answer.headers["x-slo-admission"] == "best-effort"


async def test_a_replica_that_dies_with_none_to_take_over_is_no_reason_to_fail(
    cloud: Cloud, client: aiohttp.ClientSession, model: str
) -> None:
    async with scripted_replica(cloud.redis_url, model, dies_at_once, model=model) as replica:
        await until_known(client, cloud.gateway.url, model)
        async with client.post(f"{cloud.gateway.url}/v1/chat/completions", json=chat(model), headers=TIGHT) as answer:
            assert answer.status == 200
            assert answer.headers["x-slo-replica"] == "overflow:cloud"
        assert len(replica.calls) == 1
    await eventually(lambda: _gone(client, cloud.gateway.url, model))
    async with client.post(f"{cloud.gateway.url}/v1/chat/completions", json=chat(model), headers=TIGHT) as answer:
        assert answer.headers["x-slo-replica"] == "overflow:cloud"


async def _gone(client: aiohttp.ClientSession, url: str, name: str) -> bool:
    async with client.get(f"{url}/ready") as answer:
        return name not in (await answer.json())["replicas"]


async def test_a_client_that_hangs_up_ends_the_work_elsewhere(
    cloud: Cloud, client: aiohttp.ClientSession, full: ScriptedReplica, model: str
) -> None:
    body = chat(model, stream=True, max_tokens=1500)
    async with client.post(f"{cloud.gateway.url}/v1/chat/completions", json=body, headers=TIGHT) as answer:
        await answer.content.readany()
        assert await running(client, cloud.provider.url) == 1
        answer.close()
    await eventually(partial(_idle, client, cloud.provider.url))


async def _idle(client: aiohttp.ClientSession, url: str) -> bool:
    return await running(client, url) == 0


async def test_what_the_provider_refuses_is_refused_by_name(
    cloud: Cloud, client: aiohttp.ClientSession, full: ScriptedReplica, model: str
) -> None:
    body = chat(model, max_tokens=100_000)
    async with client.post(f"{cloud.gateway.url}/v1/chat/completions", json=body, headers=TIGHT) as answer:
        error = (await answer.json())["error"]
    assert answer.status == 400, error
    assert error["code"] == "overflow_refused"
    assert "'cloud'" in error["message"]


async def test_litellm_is_a_client_like_any_other(cloud: Cloud, client: aiohttp.ClientSession, model: str) -> None:
    """Its own calls, its router, and its exceptions; the SLO travels in headers."""
    litellm = load_litellm()
    way = {"model": f"openai/{model}", "api_base": f"{cloud.gateway.url}/v1", "api_key": "none", "max_retries": 0}
    messages = chat(model)["messages"]
    async with scripted_replica(cloud.redis_url, model, good(), model=model) as replica:
        await until_known(client, cloud.gateway.url, model)
        slo = {"x-slo-ttft-ms": "800", "x-slo-tpot-ms": "80"}
        whole = await litellm.acompletion(**way, messages=messages, max_tokens=3, extra_headers=slo)
        assert whole.choices[0].message.content == "t0 t1 t2 "
        told = whole._hidden_params["additional_headers"]
        assert told["llm_provider-x-slo-admission"] == "guaranteed"
        router = litellm.Router(model_list=[{"model_name": "m", "litellm_params": way}], num_retries=0)
        stream = await router.acompletion("m", messages, max_tokens=3, stream=True, extra_headers=slo)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(texts) == "t0 t1 t2 "
        replica.busy_for(600)
        await replica.reported()
        with pytest.raises(litellm.RateLimitError, match="can't be guaranteed now"):
            await litellm.acompletion(**way, messages=messages, extra_headers={"x-slo-class": "strict"})
        with pytest.raises(litellm.NotFoundError, match="no such model"):
            await litellm.acompletion(**{**way, "model": "openai/gpt-9"}, messages=messages)


async def test_a_provider_that_is_down_is_passed_over(
    cloud: Cloud, client: aiohttp.ClientSession, full: ScriptedReplica, model: str
) -> None:
    """The last of the stories: the provider does not come back."""
    cloud.provider.kill()
    async with client.post(f"{cloud.gateway.url}/v1/chat/completions", json=chat(model), headers=TIGHT) as answer:
        assert answer.status == 200
        assert answer.headers["x-slo-replica"] == full.name
    await full.fall_silent()
    await eventually(lambda: _gone(client, cloud.gateway.url, model))
    async with client.post(f"{cloud.gateway.url}/v1/chat/completions", json=chat(model), headers=TIGHT) as answer:
        assert answer.status == 503
        assert (await answer.json())["error"]["code"] == "overflow_unavailable"


@pytest.mark.parametrize(
    ("overflow", "said"),
    [
        ('model = "nonsense/x"', "line 6: overflow.cloud.model: litellm knows no such provider"),
        ('model = "openai/x"\napi_key_env = "NO_KEY_HERE"', "line 7: overflow.cloud.api_key_env: the environment has"),
    ],
)
def test_check_config_asks_litellm(tmp_path: Path, overflow: str, said: str) -> None:
    file = tmp_path / "overflow.toml"
    file.write_text(
        f'[classes.a]\nttft_ms = 9\nwhen_full = "overflow"\noverflow = "cloud"\n[overflow.cloud]\n{overflow}'
    )
    result = CliRunner().invoke(app, ["check-config", str(file)])
    assert result.exit_code == 2
    assert said in result.stderr
