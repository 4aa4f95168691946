"""The simulated system decides as the gateway does: the same arrivals through both, one by one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.channel import ReplicaInfo
from slosgate.engines.sim.cluster import Cluster
from slosgate.engines.sim.contents import leading
from slosgate.engines.sim.systems import Call, Offered, Settings, StageJob
from slosgate.engines.sim.systems.base import BEST_EFFORT, GUARANTEED, REFUSED, Delays
from slosgate.engines.sim.systems.slosgate import FrontEnd, PlannedSystem
from slosgate.gateway.config import Config
from slosgate.gateway.decisions.planning import Planning
from slosgate.gateway.errors import GatewayError
from slosgate.gateway.gateway import Gateway
from slosgate.gateway.promises.completion import parse
from slosgate.gateway.promises.contract import Contract
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.replicas.breaker import Breaker
from slosgate.gateway.replicas.fleet import Replica
from slosgate.planner.controller import WhenFull

PROFILE = msgspec.structs.replace(profiles.load("h200-opt-13b"), kv_blocks=1200)
CLASSES = ("loose", "strict")


def _registered(name: str) -> ReplicaInfo:
    return ReplicaInfo(
        name=name, url="http://127.0.0.1:9", model=PROFILE.model, profile=PROFILE, engine="sim", policy="slosgate",
        started_at_s=0.0, supports_plans=True,
    )  # fmt: skip


class Both(PlannedSystem):
    """The simulated system; before it decides about an arrival, a gateway that sees the same replicas does."""

    def __init__(self, settings: Settings, gateway: Gateway, wait: Callable[[Any], Any]) -> None:
        super().__init__(settings, FrontEnd())
        self._gateway = gateway
        self._wait = wait
        self._exchanges: dict[str, Exchange] = {}
        self._twins: list[Replica] = []  # of the replicas, at the gateway
        self.now_s = 0.0
        self.decided: list[tuple[str, tuple[str, int], tuple[str, int]]] = []
        for number in range(settings.replicas):
            replica = Replica(
                f"{settings.seed}-{number}", "http://127.0.0.1:9", PROFILE.model, Breaker(lambda: 0.5),
                profile=settings.profile, info=_registered(f"{settings.seed}-{number}"),
            )  # fmt: skip
            gateway.fleet.replicas[replica.name] = replica
            self._twins.append(replica)
        gateway.fleet.gateways = frozenset({gateway.ledger.gateway})
        self._planning: Planning = gateway.planning

    def arrive(self, fleet: Any, job: StageJob, now_s: float) -> None:
        self._report(now_s)
        exchange = self._exchange(job, self._arrival(job).output_tokens)
        try:
            placement = self._wait(self._gateway.admission.admit(exchange))
            number = self._twins.index(placement.replica)
            self._exchanges[job.id] = exchange
        except GatewayError:
            number = -1
        super().arrive(fleet, job, now_s)
        if number >= 0:
            self._gateway.fleet.dispatched(placement.replica, exchange.completion.prefix, exchange.prompt_tokens)
            placement.replica.expect(job.id, exchange.prompt_tokens, exchange.cached)
        said = exchange.admission if number >= 0 else REFUSED  # as planned since: what has room is promised at once
        where = -1 if job.admission == REFUSED else job.replica  # a later call has the replica of the one before
        self.decided.append((job.id, (said, number), (job.admission, where)))

    def served(self, fleet: Any, job: StageJob, now_s: float) -> bool:
        self._report(now_s)
        exchange = self._exchanges.pop(job.id)
        self._gateway.admission.release(exchange)
        exchange.placement.replica.prefixes.ended(exchange.completion.prefix, exchange.prompt_tokens, job.emitted)
        return super().served(fleet, job, now_s)

    def _plan(self, fleet: Any, number: int, now_s: float, preempt: tuple[str, ...] = ()) -> None:
        """Both promote whom they can at the same moments."""
        replica = self._twins[number]
        self._take(number, now_s)
        replica.answers = dict(self._exchanges)
        self._wait(self._planning.plan(replica))
        super()._plan(fleet, number, now_s, preempt)
        known = {job_id for job_id, job in self._jobs.items() if job.replica == number and job.admission == GUARANTEED}
        assert replica.mirror is not None
        assert {i for i, e in replica.mirror.entries.items() if e.guaranteed} & set(self._jobs) == known

    def _report(self, now_s: float) -> None:
        for number in range(len(self.replicas)):
            self._take(number, now_s)

    def _take(self, number: int, now_s: float) -> None:
        """The gateway hears of a replica what an engine says of itself when an iteration begins."""
        self.now_s = now_s
        engine, mirror = self.replicas[number], self._twins[number].mirror
        assert mirror is not None
        latest = engine.in_flight or engine.previous
        said_s = latest.start_s if latest is not None and latest.end_s >= now_s else now_s
        report = engine.telemetry(str(number), said_s)
        mirror.take(report, said_s)
        for prefix in report.prefixes:
            self._twins[number].note_cached(prefix)

    def _exchange(self, job: StageJob, output_tokens: int) -> Exchange:
        stage = job.stage
        prompt_tokens = stage.cached_tokens + stage.prompt_tokens
        body = msgspec.json.encode({"model": PROFILE.model, "prompt": [1] * prompt_tokens})
        completion = replace(parse(body, "completions"), prefix=leading(job.parts, prompt_tokens, PROFILE.block_tokens))
        contract = Contract(
            job.request.slo_class,
            stage.ttft_slo_s,
            0.0,
            stage.tpot_slo_s,
            self._arrival(job).weight,
            job.request.when_full,
            "",
            None,
        )
        return Exchange(
            request_id=job.id, completion=completion, contract=contract, arrival_s=self.now_s,
            prompt_tokens=prompt_tokens, output_tokens=output_tokens, ttft_s=stage.ttft_slo_s,
            prompt_is_exact=True,
        )  # fmt: skip


def arrivals(seed: int) -> list[Offered]:
    """More than two replicas hold, in bursts; some want a refusal, some want the impossible, some have no SLO."""
    rng = np.random.default_rng(seed)
    at_s, requests = 0.0, []
    for n in range(150):
        at_s += float(rng.exponential(0.02 if n % 30 < 15 else 0.08))
        prompt = int(rng.integers(50, 1800))
        tight = float(rng.choice([0.5, 2.0, 4.0, math.inf], p=[0.05, 0.3, 0.6, 0.05]))
        stage = Call(
            prompt_tokens=prompt, output_tokens=int(rng.integers(5, 60)),
            ttft_slo_s=tight * PROFILE.zero_load_ttft_s(prompt), tpot_slo_s=math.inf if math.isinf(tight) else 0.1,
        )  # fmt: skip
        policy: WhenFull = "reject" if n % 3 == 0 else "best-effort"
        calls = (stage,) if n % 5 else (stage, _next(stage), _next(_next(stage)))
        requests.append(Offered(id=f"r{n}", arrival_s=at_s, calls=calls, slo_class=CLASSES[n % 2], when_full=policy))
    return requests


def _next(call: Call) -> Call:
    """The call after this one, in a loop: what was said before is cached, and its SLO reckons with that."""
    return replace(
        call, cached_tokens=call.cached_tokens + call.prompt_tokens + call.output_tokens, prompt_tokens=90, gap_s=0.1,
        ttft_slo_s=4.0 * PROFILE.zero_load_ttft_s(90),
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_the_simulated_system_decides_as_the_gateway_does(redis_url: str, seed: int) -> None:
    loop = asyncio.new_event_loop()
    running: list[asyncio.Task[None]] = []
    try:

        async def started() -> Gateway:
            gateway = Gateway(Config(), redis_url, clock=lambda: 0.0)
            running.append(asyncio.create_task(gateway.ledger.run()))
            gateway.ledger.available = True
            return gateway

        gateway = loop.run_until_complete(started())
        both = Both(
            Settings(PROFILE, replicas=2, seed=seed, delays=Delays(0.0, 0.0, 0.0)), gateway, loop.run_until_complete
        )
        gateway.admission._clock = gateway.planning._clock = gateway.fleet._clock = lambda: both.now_s
        run = Cluster(both, arrivals(seed)).run(math.inf)
        running[0].cancel()
        loop.run_until_complete(gateway.ledger.close())
        loop.run_until_complete(gateway.upstream.close())
    finally:
        loop.close()
    differing = [found for found in both.decided if found[1] != found[2]]
    assert differing == []
    assert {found[2][0] for found in both.decided} == {GUARANTEED, BEST_EFFORT, REFUSED}
    assert {job.admission for job in run.jobs} >= {GUARANTEED, REFUSED}
    later = [job for job in run.jobs if job.index and job.admission]
    assert sum(job.cached_tokens > 0 for job in later) > 0.9 * len(later)
