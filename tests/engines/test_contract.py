"""What every engine owes the gateway, whatever it is made of: spoken over HTTP and Redis, as a gateway does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from slosgate.engines import channel
from slosgate.engines.door import Door
from slosgate.engines.messages import Plan, PlannedIteration, RequestProgress, Telemetry
from slosgate.engines.store import connect
from tests.engines.conftest import Valkey
from tests.engines.serving import EngineServer, Watcher, complete, sim_engine

HOLD_A = Plan(replica="", epoch=0, issued_at_s=0.0, hold=("a",))
FREE = Plan(replica="", epoch=0, issued_at_s=0.0)


@pytest.fixture(scope="module")
def state() -> Iterator[Valkey]:
    valkey = Valkey()
    yield valkey
    valkey.stop()


@pytest.fixture(scope="module", params=["sim"])
def engine(
    request: pytest.FixtureRequest, state: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineServer]:
    log = tmp_path_factory.mktemp("engine") / "log"
    with sim_engine("contract", state.url, "--acceptance", "0.7", log=log) as url:
        yield EngineServer("contract", url, state.url, long_prompt=1900, chunk=20, output=100)


@pytest_asyncio.fixture
async def redis(engine: EngineServer) -> AsyncIterator[Redis]:
    async with connect(engine.redis) as redis:
        yield redis


@pytest_asyncio.fixture
async def watcher(engine: EngineServer, redis: Redis) -> AsyncIterator[Watcher]:
    watcher = Watcher(redis, engine.name)
    task = asyncio.create_task(watcher.watch())
    await watcher.until(lambda report: not report.progress)
    yield watcher
    if not task.done():  # Redis is still the one that the test began with
        await watcher.plan(FREE)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def of(report: Telemetry, request_id: str) -> RequestProgress:
    return next(p for p in report.progress if p.request_id == request_id)


def here(report: Telemetry, *request_ids: str) -> bool:
    return {p.request_id for p in report.progress} == set(request_ids)


def chunks(engine: EngineServer, tokens: int) -> Plan:
    """A plan that computes request a's prompt in chunks of so many tokens."""
    entry = PlannedIteration(token_budget=tokens, duration_s=0.01, prefill=(("a", tokens),))
    return Plan(replica="", epoch=0, issued_at_s=0.0, horizon=(entry,) * (engine.long_prompt // tokens))


async def test_the_planned_token_budgets_are_obeyed(engine: EngineServer, watcher: Watcher) -> None:
    await watcher.plan(HOLD_A)
    request = asyncio.create_task(complete(engine, engine.long_prompt, 1, slo_id="a"))
    await watcher.until(lambda report: here(report, "a"))
    watcher.iterations.clear()
    await watcher.plan(chunks(engine, engine.chunk))
    await request
    await watcher.until(lambda report: here(report))
    assert [i.new_tokens for i in watcher.iterations] == [engine.chunk] * (engine.long_prompt // engine.chunk)


async def test_a_plan_that_comes_in_the_middle_of_a_prefill_takes_effect(
    engine: EngineServer, watcher: Watcher
) -> None:
    await watcher.plan(HOLD_A)
    request = asyncio.create_task(complete(engine, engine.long_prompt, 1, slo_id="a"))
    await watcher.until(lambda report: here(report, "a"))
    watcher.iterations.clear()
    await watcher.plan(chunks(engine, engine.chunk))
    await watcher.until(lambda report: of(report, "a").prompt_left < engine.long_prompt)
    await watcher.plan(chunks(engine, engine.chunk // 2))
    await request
    await watcher.until(lambda report: here(report))
    sizes = [i.new_tokens for i in watcher.iterations]
    changed = sizes.index(engine.chunk // 2)
    assert 0 < changed < engine.long_prompt // engine.chunk
    assert set(sizes[:changed]) == {engine.chunk}
    assert set(sizes[changed : changed + 5]) == {engine.chunk // 2}


async def test_prompts_run_by_deadline_not_by_arrival(engine: EngineServer, watcher: Watcher) -> None:
    names = [f"edf{n}" for n in range(8)]
    await watcher.plan(Plan(replica="", epoch=0, issued_at_s=0.0, hold=tuple(names)))
    requests = [
        asyncio.create_task(
            complete(engine, engine.long_prompt, 1, slo_id=name, slo_ttft_ms=20_000 - 1_000 * n, slo_tpot_ms=100)
        )
        for n, name in enumerate(names)
    ]
    await watcher.until(lambda report: here(report, *names))
    await watcher.plan(FREE)
    first_tokens = [answer.times[0] for answer in await asyncio.gather(*requests)]
    assert first_tokens == sorted(first_tokens, reverse=True)


async def test_best_effort_is_held_preempted_and_finished(engine: EngineServer, watcher: Watcher) -> None:
    request = asyncio.create_task(complete(engine, 100, engine.output, slo_id="a"))
    await watcher.until(lambda report: here(report, "a") and of(report, "a").generated_tokens > 3)
    async with watcher.planning(HOLD_A):
        stopped = await watcher.until(lambda report: not report.busy_for_s)
        guaranteed = await complete(engine, 100, 5, slo_id="b", slo_ttft_ms=5000, slo_tpot_ms=100, slo_guaranteed=1)
        assert guaranteed.tokens == 5
    async with watcher.planning(msgspec.structs.replace(HOLD_A, preempt=("a",))):
        empty = await watcher.until(lambda report: report.kv_blocks_free == report.kv_blocks_total)
    assert of(empty, "a").context_tokens == 0
    assert of(empty, "a").generated_tokens == of(stopped, "a").generated_tokens < engine.output
    await watcher.plan(FREE)
    assert (await request).tokens == engine.output


async def test_reports_tell_how_drafts_fared(engine: EngineServer, watcher: Watcher) -> None:
    asked = {"slo_class": "chat", "slo_acceptance": 0.7, "slo_ttft_ms": 5000, "slo_tpot_ms": 100}
    answers = await asyncio.gather(*(complete(engine, 50, 200, slo_id=f"d{n}", **asked) for n in range(4)))
    assert [answer.tokens for answer in answers] == [200] * 4
    await watcher.until(lambda report: here(report))
    assert {drafts.slo_class for drafts in watcher.drafts} == {"chat"}
    accepted = sum(drafts.accepted for drafts in watcher.drafts)
    assert accepted < 800
    assert accepted / (accepted + sum(drafts.rejected for drafts in watcher.drafts)) == pytest.approx(0.7, abs=0.1)


async def test_a_client_that_hangs_up_frees_its_blocks(engine: EngineServer, watcher: Watcher) -> None:
    # So long an answer that it is still under way when a busy machine's report comes late.
    request = asyncio.create_task(complete(engine, 100, 15 * engine.output, slo_id="a"))
    await watcher.until(lambda report: here(report, "a") and of(report, "a").generated_tokens > 3)
    request.cancel()
    gone = await watcher.until(lambda report: here(report))
    assert gone.kv_blocks_free == gone.kv_blocks_total


async def test_a_request_whose_slo_makes_no_sense_is_served(engine: EngineServer, watcher: Watcher) -> None:
    answer = await complete(engine, 50, 3, slo_id="odd", slo_ttft_ms="soon", slo_class="?")
    assert answer.tokens == 3


async def test_losing_redis_costs_no_request_and_the_engine_comes_back(
    engine: EngineServer, state: Valkey, watcher: Watcher, redis: Redis
) -> None:
    running = asyncio.create_task(complete(engine, 100, engine.output, slo_id="a", slo_ttft_ms=5000, slo_tpot_ms=100))
    await watcher.until(lambda report: here(report, "a") and of(report, "a").generated_tokens > 3)
    state.stop()
    assert (await complete(engine, 100, 5, slo_id="b")).tokens == 5
    assert (await running).tokens == engine.output
    state.start()
    async with asyncio.timeout(20):
        while not await _registered(engine):  # noqa: ASYNC110 what is awaited has no event
            await asyncio.sleep(0.02)


async def _registered(engine: EngineServer) -> bool:
    async with connect(engine.redis) as redis:
        return (await channel.registered(redis, Door())).names == {engine.name}
