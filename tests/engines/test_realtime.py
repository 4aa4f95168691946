"""The same replica in real time as in virtual time."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest

from slosgate.engines import profiles
from slosgate.engines.clock import SteadyClock
from slosgate.engines.sim import policies
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.policies.base import Outcome
from slosgate.engines.sim.realtime import RealTimeEngine, TokenStream, faster
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.engines.sim.systems import Call, Offered, Settings, load

PROFILE = faster(msgspec.structs.replace(profiles.load("h200-opt-13b"), request_overhead_s=0.0, decide_s=0.0), 4.0)
LOADS = [(600, 40), (1500, 30), (900, 20), (1200, 35), (1900, 1)]


async def read_all(stream: TokenStream) -> int:
    total, done = 0, False
    while not done:
        count, done = await stream.read()
        total += count
    return total


async def test_real_time_runs_the_iterations_of_virtual_time() -> None:
    requests = [EngineRequest(id=str(n), prompt_tokens=p, output_tokens=o) for n, (p, o) in enumerate(LOADS)]
    offered = [(Call(prompt_tokens=prompt, output_tokens=output),) for prompt, output in LOADS]
    virtual = simulate(
        load("vllm")(Settings(PROFILE)),
        [Offered(id=str(n), arrival_s=0.0, calls=calls) for n, calls in enumerate(offered)],
    )
    outcomes: list[Outcome] = []
    engine = RealTimeEngine(SimReplica(PROFILE, policies.load("vllm"), async_scheduling=True), SteadyClock())
    engine.on_iteration.append(outcomes.append)
    streams = [engine.submit(request) for request in requests]
    serving = asyncio.create_task(engine.run())
    assert [await read_all(stream) for stream in streams] == [output for _, output in LOADS]
    serving.cancel()
    # The schedule is the model's to the microsecond: time lost by a starved loop is kept apart.
    start_s = outcomes[0].end_s - outcomes[0].report.duration_s
    assert outcomes[-1].end_s - start_s - engine.late_s == pytest.approx(virtual.end_s, abs=1e-4)
    assert sum(int(o.emitted.sum()) for o in outcomes) == sum(len(job.token_s) for job in virtual.jobs)
    assert len(outcomes) == virtual.replicas[0].counters.iterations


async def test_a_cancelled_request_is_gone_after_its_iteration_and_others_go_on() -> None:
    engine = RealTimeEngine(SimReplica(PROFILE, policies.load("slosgate")), SteadyClock())
    ask = partial(EngineRequest, prompt_tokens=500, output_tokens=30)
    leaving, staying = engine.submit(ask(id="leaves")), engine.submit(ask(id="stays"))
    serving = asyncio.create_task(engine.run())
    await leaving.read()
    engine.cancel("leaves")
    engine.cancel("never came")
    assert await read_all(staying) == 30
    serving.cancel()
    assert leaving.emitted < 30
    assert engine.replica.state.pool.free == PROFILE.kv_blocks
