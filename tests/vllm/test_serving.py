"""Real vLLM under the engines' contract, and behind a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from slosgate.engines import channel, profiles
from slosgate.engines.channel import ReplicaInfo
from slosgate.engines.store import connect
from tests.engines.conftest import Valkey
from tests.engines.serving import EngineServer
from tests.engines.test_contract import (  # noqa: F401  # the contract's own tests and fixtures
    redis,
    state,
    test_a_client_that_hangs_up_frees_its_blocks,
    test_a_plan_that_comes_in_the_middle_of_a_prefill_takes_effect,
    test_a_request_whose_slo_makes_no_sense_is_served,
    test_best_effort_is_held_preempted_and_finished,
    test_losing_redis_costs_no_request_and_the_engine_comes_back,
    test_prompts_run_by_deadline_not_by_arrival,
    test_the_planned_token_budgets_are_obeyed,
    watcher,
)
from tests.processes import running_gateway
from tests.vllm.serving import MODEL, vllm_engine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def engine(state: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:  # noqa: F811
    with vllm_engine("contract", state.url, tmp_path_factory.mktemp("vllm")) as url:
        yield EngineServer("contract", url, state.url, long_prompt=1900, chunk=50, output=100)


async def test_a_gateway_guarantees_requests_and_its_death_costs_none(engine: EngineServer) -> None:
    with running_gateway(engine.redis) as gateway:
        await _until_ready(gateway.url)
        answers = await asyncio.gather(*(_complete(gateway.url, 50 * n, 20) for n in range(1, 9)))
        assert answers == [(200, "guaranteed", 20)] * 8
        gateway.kill()
    assert await _complete(engine.url, 100, 10) == (200, None, 10)


async def test_an_engine_without_a_profile_measures_itself_before_it_registers(
    state: Valkey,  # noqa: F811
    tmp_path: Path,
) -> None:
    with vllm_engine("unmeasured", state.url, tmp_path, measures=True) as url, running_gateway(state.url) as gateway:
        await _until_ready(gateway.url, "unmeasured")
        async with connect(state.url) as redis:
            record = await redis.get(channel.key("replica", "unmeasured"))
        assert isinstance(record, bytes)
        info = msgspec.msgpack.decode(record, type=ReplicaInfo)
        assert await _complete(gateway.url, 300, 20) == (200, "guaranteed", 20)
        assert await _complete(url, 100, 10) == (200, None, 10)
    profile = info.profile
    assert profile.source.startswith("measured by the replica itself")
    assert (profile.model, profile.gpus, profile.max_model_tokens, profile.max_batched_tokens) == (MODEL, 1, 2048, 512)
    assert 0.0 < profile.perf.iteration_s(1, 100, 1) < profile.perf.iteration_s(512, 512, 1)
    [kept] = (tmp_path / "cache" / "slosgate" / "profiles").glob("*.json")
    assert profiles.load(str(kept)).perf == profile.perf


async def _complete(url: str, prompt: int, output: int) -> tuple[int, str | None, int]:
    """Status, admission and output tokens."""
    body = {"model": MODEL, "prompt": [9] * prompt, "max_tokens": output, "ignore_eos": True}
    headers = {"x-slo-ttft-ms": "20000", "x-slo-tpot-ms": "2000"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=body, headers=headers) as response,
    ):
        answer = await response.json()
        return response.status, response.headers.get("x-slo-admission"), answer["usage"]["completion_tokens"]


async def _until_ready(url: str, replica: str = "contract") -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(120):
        while True:
            async with session.get(f"{url}/ready") as response:
                if replica in await response.text():
                    return
            await asyncio.sleep(0.1)
