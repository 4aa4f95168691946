"""The scheduler class inside vLLM's engine loop, with fake model outputs: what was planned is what is scheduled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from redis.asyncio import Redis
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from slosgate.bench.gpu.dummy_model import write_model
from slosgate.bench.gpu.fake_engine import ITERATION_S, FakeEngine, make_scheduler
from slosgate.engines import channel, profiles
from slosgate.engines.messages import Announcement, Plan, PlannedIteration, PrefixReport
from slosgate.engines.store import connect
from slosgate.engines.vllm import kept
from slosgate.engines.vllm.compat import ClampedScheduler, require_supported_config
from slosgate.engines.vllm.scheduler import AsyncSloScheduler, SloScheduler, SyncSloScheduler
from slosgate.engines.vllm.self_measurement import RESULT, TASK, Task
from slosgate.engines.vllm.settings import AUTO
from slosgate.engines.vllm.starting import doubts
from slosgate.engines.vllm.thinking import Thinking
from slosgate.engines.vllm.versions import ANY_VERSION, UnsupportedVllm, require_supported
from slosgate.planner.pace import NOT_YET
from slosgate.planner.perf_model import PerfModel, Term
from tests.engines.conftest import Valkey, free_port, valkey  # noqa: F401  # a fixture
from tests.engines.serving import Watcher

pytestmark = pytest.mark.vllm

MakeEngine = Callable[..., FakeEngine]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("tiny-llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def make_engine(
    request: pytest.FixtureRequest, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> MakeEngine:
    profile = msgspec.structs.replace(profiles.load("h200-opt-13b"), lead_s=ITERATION_S / 2)
    (tmp_path / "profile.json").write_bytes(msgspec.json.encode(profile))
    monkeypatch.setenv("SLOSGATE_PROFILE", str(tmp_path / "profile.json"))

    def make(**options: Any) -> FakeEngine:
        scheduler = make_scheduler(SloScheduler, model, asynchronous=request.param, **options)
        return FakeEngine(scheduler, asynchronous=request.param)

    return make


def plan(
    epoch: int,
    *horizon: PlannedIteration,
    hold: tuple[str, ...] = (),
    preempt: tuple[str, ...] = (),
    guaranteed: tuple[str, ...] = (),
) -> Plan:
    return Plan(
        replica="vllm",
        epoch=epoch,
        issued_at_s=0.0,
        horizon=horizon,
        hold=hold,
        preempt=preempt,
        guaranteed=guaranteed,
    )


def prefills(budget: int, **tokens: int) -> PlannedIteration:
    return PlannedIteration(token_budget=budget, duration_s=0.01, prefill=tuple(tokens.items()))


def test_becomes_the_scheduler_that_fits_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine()
    assert type(engine.scheduler) is (AsyncSloScheduler if engine.asynchronous else SyncSloScheduler)


def test_iterations_are_those_of_the_plan(make_engine: MakeEngine) -> None:
    engine = make_engine()
    for name in ("a", "b"):
        engine.add(name, 300, 4)
    engine.scheduler.follower.apply(plan(1, prefills(64, a=64), prefills(80, b=30, a=50), prefills(7, b=7)))
    for _ in range(3):
        engine.step()
    assert [step.tokens for step in engine.steps] == [{"a": 64}, {"b": 30, "a": 50}, {"b": 7}]
    engine.run()
    assert engine.emitted == {"a": 4, "b": 4}


def test_a_new_plan_takes_effect_in_the_middle_of_a_prefill(make_engine: MakeEngine) -> None:
    engine = make_engine()
    for name in ("a", "b"):
        engine.add(name, 300, 2)
    follower = engine.scheduler.follower
    follower.apply(plan(1, *[prefills(40, a=40)] * 5))
    engine.step()
    engine.step()
    follower.apply(plan(2, prefills(33, b=33)))
    follower.apply(plan(1, prefills(40, a=40)))  # late and older: ignored
    engine.step()
    assert [step.tokens for step in engine.steps] == [{"a": 40}, {"a": 40}, {"b": 33}]


def test_an_iteration_says_what_its_prompts_attend_to(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "iterations.jsonl"
    monkeypatch.setenv("SLOSGATE_ITERATION_LOG", str(log))
    engine = make_engine(token_budget=128)
    prompt = list(range(300))
    engine.add("whole", prompt, 4)
    engine.run()
    engine.add("continued", [*prompt, *range(500, 600)], 4)
    engine.run()
    engine.scheduler.shutdown()
    noted = [msgspec.json.decode(line) for line in log.read_bytes().splitlines()]
    prefills = [line["pairs"] for line in noted if line["new_tokens"] > 1]
    cached = 288  # whole blocks of the first prompt
    assert prefills[:3] == [128 * 64, 128 * (128 + 64), 44 * (256 + 22)]
    assert sum(prefills[3:]) == 112 * (cached + 56)
    assert all(line["pairs"] == 0 for line in noted if line["new_tokens"] == 1)


def test_the_earliest_deadline_goes_first_also_before_a_running_prefill(make_engine: MakeEngine) -> None:
    engine = make_engine(token_budget=128)
    engine.add("late", 500, 2, slo_ttft_ms=5000, slo_tpot_ms=100, slo_guaranteed=1)
    engine.step()
    engine.add("early", 250, 2, slo_ttft_ms=400, slo_tpot_ms=100, slo_guaranteed=1)
    engine.run()
    begun = [next(iter(step.tokens)) for step in engine.steps if step.tokens]
    assert begun[:3] == ["late", "early", "early"]
    assert engine.emitted == {"late": 2, "early": 2}


def test_a_tier_that_is_not_named_does_not_decode(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add("tight", 10, 30, slo_ttft_ms=500, slo_tpot_ms=50)
    engine.add("loose", 10, 30, slo_ttft_ms=500, slo_tpot_ms=100)
    for _ in range(3):
        engine.step()
    seen = len(engine.steps)
    tight_only = PlannedIteration(token_budget=8, duration_s=0.01, speculation=((0.05, 0),))
    engine.scheduler.follower.apply(plan(1, tight_only, tight_only))
    engine.step()
    engine.step()
    assert [step.tokens for step in engine.steps[seen:]] == [{"tight": 1}, {"tight": 1}]
    engine.run()
    assert engine.emitted == {"tight": 30, "loose": 30}


def test_each_tier_verifies_as_many_drafts_as_planned(make_engine: MakeEngine) -> None:
    engine = make_engine(drafts=3)
    engine.add("tight", 10, 40, slo_ttft_ms=500, slo_tpot_ms=50)
    engine.add("loose", 10, 40, slo_ttft_ms=500, slo_tpot_ms=100)
    for _ in range(3):
        engine.step()
    seen = len(engine.steps)
    both = PlannedIteration(token_budget=8, duration_s=0.01, speculation=((0.05, 2), (0.1, 1)))
    engine.scheduler.follower.apply(plan(1, *[both] * 4))
    for _ in range(4):
        engine.step()
    assert [step.drafts for step in engine.steps[seen:]] == [{"tight": 2, "loose": 1}] * 4
    engine.run()
    assert engine.emitted == {"tight": 40, "loose": 40}


def test_a_draft_model_is_paid_for_in_every_iteration(make_engine: MakeEngine, model: Path) -> None:
    looked_up, drafted = (make_engine(drafts=3, draft_model=each).scheduler.follower.profile for each in (None, model))
    alone_s, together_s = (each.perf.iteration_s(200, 200, 1) for each in (looked_up, drafted))
    assert together_s == pytest.approx(alone_s + 3 * 0.0008)
    for verified in (1, 3):
        assert drafted.perf.iteration_s(4, 900, 1, verified) == drafted.perf.iteration_s(4, 900, 1)
    assert {looked_up.max_drafts, drafted.max_drafts} == {3}


async def test_reports_tell_how_drafts_fared(
    make_engine: MakeEngine,
    valkey: Valkey,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connecting_engines(valkey, monkeypatch) as redis:
        watcher = Watcher(redis, "vllm")
        watching = asyncio.create_task(watcher.watch())
        engine = make_engine(drafts=3)
        await watcher.until(lambda report: not report.progress)  # the courier is there
        engine.add("a", 10, 1000, slo_class="chat", slo_ttft_ms=500, slo_tpot_ms=100, slo_acceptance=0.7)
        for _ in range(60):
            engine.step()
        engine.drain()
        engine.abort("a")
        await watcher.until(lambda report: report.epoch == 0 and not report.progress and bool(watcher.drafts))
        watching.cancel()
        engine.scheduler.shutdown()
    verified = [step for step in engine.steps if step.drafts]
    assert len(verified) > 40
    assert {drafts.slo_class for drafts in watcher.drafts} == {"chat"}
    # Each of them emitted one token beside the accepted drafts, each other decode and the prefill just one.
    emitting = sum(bool(step.sampling) for step in engine.steps)
    assert sum(drafts.accepted for drafts in watcher.drafts) == engine.emitted["a"] - emitting
    assert 0 < sum(drafts.rejected for drafts in watcher.drafts) < len(verified)


def test_who_comes_while_an_iteration_runs_is_in_the_next_one(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add("here", 10, 100, slo_ttft_ms=5000, slo_tpot_ms=100, slo_guaranteed=1)
    sleep = engine.scheduler.sleep

    def arrive_meanwhile(seconds: float) -> None:
        if "new" not in engine.emitted and seconds > 0.002:
            engine.add("new", 10, 1, slo_ttft_ms=1000, slo_tpot_ms=100, slo_guaranteed=1)
            engine.emitted["new"] = 0
            seen.append(len(engine.steps))
        sleep(seconds)

    seen: list[int] = []
    engine.scheduler.sleep = arrive_meanwhile
    for _ in range(20):
        engine.step()
    assert bool(seen) == engine.asynchronous  # a scheduler that isn't asked ahead has nothing to wait for
    assert all("new" in engine.steps[step].tokens for step in seen)
    if engine.asynchronous:
        assert engine.idle_s == pytest.approx(0.0)


def test_a_pipeline_is_filled_without_delay(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add("here", 10, 100, slo_ttft_ms=5000, slo_tpot_ms=100, slo_guaranteed=1)
    waits_s: list[float] = []
    engine.scheduler.sleep = waits_s.append
    for _ in range(10):
        engine.step()
    assert bool(waits_s) == engine.asynchronous
    waits_s.clear()
    engine.scheduler.vllm_config.parallel_config.pipeline_parallel_size = 2
    for _ in range(10):
        engine.step()
    assert not waits_s


def test_a_profile_that_expects_too_long_iterations_soon_costs_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine()
    follower = engine.scheduler.follower
    slow = tuple(
        msgspec.structs.replace(term, constant_s=term.constant_s + 0.2) for term in follower.profile.perf.terms
    )
    follower.profile = msgspec.structs.replace(follower.profile, perf=PerfModel(slow))
    engine.add("a", 10, 600)
    for _ in range(100):
        engine.step()
    learnt_s, seen = engine.idle_s, len(engine.steps)
    for _ in range(400):
        engine.step()
    assert engine.idle_s - learnt_s < 0.05 * (len(engine.steps) - seen) * ITERATION_S


def test_iterations_that_take_long_to_launch_are_chosen_earlier(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.launch_s = 0.75 * ITERATION_S  # an end within 2 ms of a launch would not count as seen

    def idle_s(turns: range) -> float:
        before_s = engine.idle_s
        for turn in turns:
            engine.add(f"r{turn}", 20, 3)
            engine.step()
        return engine.idle_s - before_s

    unknown_s = idle_s(range(20))
    assert unknown_s > 0.0
    known_s = idle_s(range(20, 220))
    assert (known_s < unknown_s) == engine.asynchronous


async def test_what_is_reported_has_no_pause_of_the_device_in_it(
    make_engine: MakeEngine,
    valkey: Valkey,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """An iteration that was put off for somebody on the way is none to learn from."""
    async with connecting_engines(valkey, monkeypatch) as redis:
        watcher = Watcher(redis, "vllm")
        watching = asyncio.create_task(watcher.watch())
        monkeypatch.setenv("SLOSGATE_ITERATION_LOG", str(tmp_path / "log"))
        engine = make_engine()
        await watcher.until(lambda report: not report.progress)  # the courier is there
        patient = engine.add("patient", 10, 20, slo_ttft_ms=5000, slo_tpot_ms=100, slo_guaranteed=1)
        engine.step()
        follower = engine.scheduler.follower
        for n in range(5):
            left_s = engine.steps[-1].end_s - engine.now_s
            wait_s = left_s + 0.010 + follower.profile.perf.iteration_s(10, 10, 1)
            follower.announce(Announcement(f"hasty-{n}", 10, wait_s), engine.now_s)
            engine.step()
        engine.run()
        await watcher.until(lambda report: not report.progress and bool(watcher.iterations))
        watching.cancel()
        engine.scheduler.shutdown()
    assert patient.is_finished()
    logged = [msgspec.json.decode(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    put_off = sum(line["put_off"] for line in logged)
    assert put_off
    assert len(watcher.iterations) == len(logged) - put_off
    assert all(report.duration_s == pytest.approx(ITERATION_S) for report in watcher.iterations[1:])


async def test_who_is_on_the_way_is_waited_for(
    make_engine: MakeEngine,
    valkey: Valkey,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next iteration would last longer than the request can wait: it takes the request along."""
    async with connecting_engines(valkey, monkeypatch) as redis:
        engine = make_engine()
        engine.scheduler.clock = time.time
        engine.add("here", 10, 1000, slo_ttft_ms=5000, slo_tpot_ms=100, slo_guaranteed=1)
        for _ in range(20):
            engine.step()
        assert all(step.tokens for step in engine.steps)  # nobody is waited for
        wait_s = engine.scheduler.follower.profile.soonest_s(50) + 0.006
        async with asyncio.timeout(60):
            while all(step.tokens for step in engine.steps):
                coming = Announcement(f"hasty-{len(engine.steps)}", 50, wait_s)
                await redis.publish(channel.key("arrivals", "vllm"), msgspec.msgpack.encode(coming))
                for _ in range(5):  # the courier may not listen yet, or hand it over too late on a busy machine
                    await asyncio.sleep(0.001)
                    engine.step()
        engine.add("hasty", 50, 1, slo_ttft_ms=1000, slo_tpot_ms=100, slo_guaranteed=1)
        engine.abort("here")
        engine.run()
        engine.scheduler.shutdown()
    assert engine.emitted["hasty"] == 1


async def _healthy(request: web.Request) -> web.Response:
    return web.Response()


@asynccontextmanager
async def answering_health() -> AsyncIterator[str]:
    """The HTTP server of an engine that has none: its address."""
    runner = web.AppRunner(web.Application())
    runner.app.router.add_get("/health", _healthy)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connecting_engines(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Redis]:  # noqa: F811
    """Engines made meanwhile have a courier to this Redis, which the caller is connected to as well."""
    async with answering_health() as url, connect(valkey.url) as redis:
        monkeypatch.setenv("SLOSGATE_REDIS", valkey.url)
        monkeypatch.setenv("SLOSGATE_URL", url)
        yield redis


def test_a_request_without_slo_is_served(make_engine: MakeEngine) -> None:
    engine = make_engine()
    request = engine.add("", 40, 5)
    assert request.request_id in engine.scheduler.follower.table
    engine.run()
    assert engine.emitted[""] == 5


def test_held_requests_wait_and_go_on_when_released(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add("first", 50, 40)
    engine.add("second", 50, 5)
    for _ in range(3):
        engine.step()
    engine.scheduler.follower.apply(plan(1, hold=("first",)))
    seen = len(engine.steps)
    for _ in range(8):
        engine.step()
    assert all("first" not in step.tokens for step in engine.steps[seen:])
    engine.scheduler.follower.apply(plan(2))
    engine.run()
    assert engine.emitted == {"first": 40, "second": 5}


def test_preempted_best_effort_gives_its_memory_back_and_finishes_later(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add("best-effort", 320, 30)
    for _ in range(4):
        engine.step()
    assert engine.free_blocks < 399 - 19
    engine.scheduler.follower.apply(plan(1, preempt=("best-effort",)))
    for _ in range(3):
        engine.step()
    assert engine.free_blocks == 399
    engine.scheduler.follower.apply(plan(2))
    engine.run()
    assert engine.emitted == {"best-effort": 30}


def test_the_table_counts_a_first_token_with_the_iteration_that_makes_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    request = engine.add("a", 100, 5, slo_ttft_ms=5, slo_tpot_ms=100)
    engine.step()
    engine.drain()
    job = engine.scheduler.follower.table["a"]
    assert (job["prompt_left"], job["context"], job["generated"]) == (0, 100, 1)
    assert request.num_output_tokens == 1
    assert job["due_base_s"] == pytest.approx(max(1000.005, engine.now_s))


def test_a_cancelled_request_leaves_nothing_behind(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add("a", 200, 50)
    for _ in range(5):
        engine.step()
    engine.abort("a")
    engine.run()
    assert engine.free_blocks == 399
    assert len(engine.scheduler.follower.table) == 0


def test_a_prompt_in_the_prefix_cache_is_not_planned_again(make_engine: MakeEngine) -> None:
    engine = make_engine()
    prompt = list(range(100, 260))
    engine.add("first", prompt, 2)
    engine.run()
    engine.add("again", prompt, 2)
    assert engine.scheduler.follower.table["again"]["prompt_left"] == 16
    engine.run()
    assert engine.emitted == {"first": 2, "again": 2}


def test_the_pace_changes_where_thinking_ends(make_engine: MakeEngine) -> None:
    engine = make_engine()
    scheduler, prompt = engine.scheduler, list(range(100, 260))

    def ends(ids: Sequence[int]) -> int:
        """Whatever is said first is the end of thinking."""
        return int(len(ids) > 0 and list(ids) != prompt[-8:])

    scheduler._thinking = Thinking(scheduler.follower, scheduler._tracker, ends)
    paces = {"slo_ttft_ms": 5000, "slo_tpot_ms": 30, "slo_next_tpot_ms": 100, "slo_switch_at": NOT_YET}
    engine.add("thinks", prompt, 6, **paces)
    job = scheduler.follower.table["thinks"]
    assert (job["tpot_s"], job["switch_at"]) == (0.03, NOT_YET)
    while engine.emitted["thinks"] < 2:
        engine.step()
    job = scheduler.follower.table["thinks"]
    assert (job["tpot_s"], job["switch_at"]) == (0.1, 0)  # its first token was the end of thinking


def test_a_model_without_a_reasoning_parser_has_the_answers_pace_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    paces = {"slo_ttft_ms": 5000, "slo_tpot_ms": 30, "slo_next_tpot_ms": 100, "slo_switch_at": NOT_YET}
    engine.add("answers", 100, 6, **paces)
    job = engine.scheduler.follower.table["answers"]
    assert (job["tpot_s"], job["switch_at"]) == (0.1, 0)


def test_what_the_prefix_cache_had_of_a_prompt_is_reported(make_engine: MakeEngine) -> None:
    engine = make_engine()
    told: list[PrefixReport] = []
    engine.scheduler._reporter.took_in = told.append
    prompt = list(range(100, 260))
    for name in ("first", "again"):
        engine.add(name, prompt, 2)
        engine.run()
    assert told == [PrefixReport("first", 160, 0), PrefixReport("again", 160, 144)]


def test_when_memory_runs_out_the_guarantee_keeps_its_blocks(make_engine: MakeEngine) -> None:
    engine = make_engine(blocks=40)
    engine.add("guaranteed", 200, 200, slo_ttft_ms=5000, slo_tpot_ms=100, slo_guaranteed=1)
    engine.add("best-effort", 200, 200)
    engine.run()
    assert engine.emitted == {"guaranteed": 200, "best-effort": 200}
    preempted = {r for step in engine.steps for r in step.output.preempted_req_ids or ()}
    assert "guaranteed-vllm" not in preempted


@pytest.mark.parametrize("drafts", [0, 3])
def test_no_block_is_lost_over_thousands_of_random_steps(make_engine: MakeEngine, drafts: int) -> None:
    """Arrivals, cancellations and plans at random, on too little memory; together 10,000 steps."""
    engine = make_engine(drafts=drafts, blocks=200, max_sequences=24, token_budget=256)
    chance = random.Random(drafts)
    wanted: dict[str, int] = {}
    for turn in range(2500):
        if len(engine.scheduler.requests) < 40 and chance.random() < 0.4:
            name = f"r{turn}"
            wanted[name] = chance.randint(1, 60)
            slo = {"slo_ttft_ms": chance.choice((50, 500, 5000)), "slo_tpot_ms": chance.choice((20, 50, 100))}
            engine.add(name, chance.randint(1, 500), wanted[name], slo_guaranteed=chance.randint(0, 1), **slo)
        if chance.random() < 0.03 and engine.scheduler.requests:
            gone = chance.choice(sorted(engine.scheduler.requests)).removesuffix("-vllm")
            engine.abort(gone)
            del wanted[gone]
        if chance.random() < 0.1:
            engine.scheduler.follower.apply(_random_plan(turn + 1, engine, chance))
        engine.step()
    engine.scheduler.follower.apply(plan(10_000))
    engine.run()
    assert {name: engine.emitted[name] for name in wanted} == wanted
    assert engine.free_blocks == 199
    assert len(engine.scheduler.follower.table) == 0
    assert all(step.total <= 256 for step in engine.steps)


def _random_plan(epoch: int, engine: FakeEngine, chance: random.Random) -> Plan:
    table = engine.scheduler.follower.table
    ids = list(table.ids)
    waiting = [job_id for job_id in ids if table[job_id]["prompt_left"] > 0]
    steps = [
        PlannedIteration(
            token_budget=256,
            duration_s=0.01,
            speculation=tuple((tpot_s, chance.randint(0, 3)) for tpot_s in (0.02, 0.05, 0.1) if chance.random() < 0.7),
            prefill=tuple((job_id, chance.randint(1, 40)) for job_id in waiting[:2]),
        )
        for _ in range(chance.randint(0, 4))
    ]
    some = tuple(chance.sample(ids, k=min(len(ids), 3)))
    return plan(epoch, *steps, hold=some[:1], preempt=some[1:2], guaranteed=some[2:])


def test_a_waiting_prompt_that_vllm_gives_nothing_keeps_its_place(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first = engine.add("first", 300, 2)
    engine.add("second", 300, 2)
    give = engine.scheduler.clamp
    refused: list[str] = []

    def nothing_at_first(request: Any, computed: int, tokens: int) -> int:
        if request is not first or refused:
            return int(give(request, computed, tokens))
        refused.append(request.request_id)
        return 0

    engine.scheduler.clamp = nothing_at_first
    engine.scheduler.follower.apply(plan(1, prefills(80, first=30, second=50)))
    step = engine.step()
    assert step is not None
    assert step.tokens in ({}, {"second": 50})  # from vLLM 0.33 on those behind it still start
    assert refused
    engine.run()
    assert engine.emitted == {"first": 2, "second": 2}
    assert engine.free_blocks == 399


def test_without_a_profile_it_plans_with_what_was_measured_before_or_derives_one(
    make_engine: MakeEngine, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLOSGATE_PROFILE", AUTO)
    monkeypatch.setenv("SLOSGATE_MEASURING", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = make_engine()
    derived = engine.scheduler.follower.profile
    assert (derived.device, derived.kv_blocks, derived.max_model_tokens) == ("CPU", 399, 2048)
    task = msgspec.json.decode((tmp_path / TASK).read_bytes(), type=Task)
    slower = msgspec.structs.replace(
        derived, perf=PerfModel((Term(per_new_token_s=1e-4, constant_s=0.02),)), kv_blocks=7, source="measured"
    )
    kept.leave(slower, tmp_path / RESULT)
    engine.add("wakes it", 10, 2)
    engine.step()
    measured = engine.scheduler.follower.profile
    assert (measured.perf, measured.kv_blocks) == (slower.perf, 399)
    kept.keep(task.key, slower)
    (tmp_path / TASK).unlink()
    assert make_engine().scheduler.follower.profile == measured
    assert make_engine(token_budget=256).scheduler.follower.profile.perf == derived.perf  # other iterations
    assert (tmp_path / TASK).exists()


def test_a_profile_of_another_model_is_noticed(make_engine: MakeEngine) -> None:
    scheduler = make_engine().scheduler
    found = list(doubts(profiles.load("a100-opt-30b"), scheduler))
    assert len(found) == 3
    assert "it is of 2 x NVIDIA A100 80 GB SXM, tensor parallel, and this is CPU" in found
    assert any("has 1376256 bytes of KV a token, and the model here 256" in doubt for doubt in found)


@pytest.mark.parametrize(
    ("option", "value"),
    [("policy", "priority"), ("long_prefill_token_threshold", 256), ("prefill_schedule_interval", 2)],
)
def test_an_option_that_contradicts_the_plan_is_refused_by_name(
    make_engine: MakeEngine, option: str, value: str | int
) -> None:
    config = make_engine().scheduler.vllm_config
    require_supported_config(config)
    setattr(config.scheduler_config, option, value)
    with pytest.raises(UnsupportedVllm, match=option.replace("_", "-")):
        require_supported_config(config)


def test_vllm_itself_has_no_attribute_that_the_plug_in_hides_unawares(make_engine: MakeEngine, model: Path) -> None:
    engine = make_engine()
    base = AsyncScheduler if engine.asynchronous else Scheduler
    stock = make_scheduler(base, model, asynchronous=engine.asynchronous)
    ours = {name for cls in (SyncSloScheduler, AsyncSloScheduler, ClampedScheduler) for name in vars(cls)}
    ours |= set(vars(engine.scheduler)) - set(vars(stock))
    hidden = {name for name in ours & set(dir(stock)) if not name.startswith("__")}
    hooks = {"_abc_impl", "_reserve_prefill_lookahead", "_mamba_block_aligned_split"}
    called = {"add_request", "finish_requests", "has_requests", "schedule", "update_from_output", "shutdown"}
    called |= {"get_grammar_bitmask"}
    assert hidden - hooks == called


def test_an_untested_version_is_refused_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ANY_VERSION, raising=False)
    require_supported("0.32.0+cpu")
    with pytest.raises(UnsupportedVllm, match=r"0\.25\.1, 0\.32\.0 and 0\.33\.0, and this is 0\.99\.0: install one"):
        require_supported("0.99.0")
    monkeypatch.setenv(ANY_VERSION, "1")
    require_supported("0.99.0")
