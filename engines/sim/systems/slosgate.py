"""slosgate in virtual time: the planner places every arrival, promotes and plans; followers carry it out.

What the gateway does, without HTTP and Redis between it and the replicas. Each ablation changes one `FrontEnd` field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, cycle

import msgspec

from slosgate.engines.messages import Plan, SloArgs
from slosgate.engines.plans import horizon_of
from slosgate.engines.sim.acceptance import AcceptanceRates
from slosgate.engines.sim.policies.slosgate import SlosgatePolicy
from slosgate.engines.sim.state import EngineState
from slosgate.engines.sim.systems.base import (
    BEST_EFFORT,
    GUARANTEED,
    Fleet,
    Settings,
    StageJob,
    SystemFactory,
    equal_replicas,
)
from slosgate.planner.controller import Arrival, Decision, ReplicaState, place, plan_replica, promote
from slosgate.planner.lengths import USUAL_TOKENS, ClassStatistics, LengthHistogram, firm_tokens


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """How the planner is used."""

    horizon_s: float = 0.0  # how far ahead plans reach; the followers' own rule takes over from there
    speculates: bool = False
    promotes: bool = True  # best effort becomes a guarantee when room appears
    routes: bool = True  # False: round robin decides, the planner is asked about that one replica
    defers: bool = True  # False: nobody becomes best effort, fitting or not
    selects: bool = True  # False: what is best effort on arrival has no deadline any more


class PlannedSystem:
    """Replicas that follow plans, and the front end that makes them."""

    def __init__(self, settings: Settings, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._profile = settings.profile
        self._rates = AcceptanceRates()
        self._policies: list[SlosgatePolicy] = []
        self.replicas = equal_replicas(settings, self._policy)
        self._prompts = LengthHistogram()
        self._classes = ClassStatistics()  # output lengths are learned: nobody announces them
        self._turns = cycle(range(len(self.replicas)))
        self._jobs: dict[str, StageJob] = {}
        self._effort: list[set[str]] = [set() for _ in self.replicas]  # best effort on each replica
        self._promoted: list[set[str]] = [set() for _ in self.replicas]
        self._epochs = [count(1) for _ in self.replicas]

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        self._jobs[job.id] = job
        arrival = self._arrival(job)
        self._prompts = self._prompts.observe(job.stage.prompt_tokens)
        number, decision = self._place(job, arrival, now_s)
        guaranteed = decision.guaranteed or not self._front_end.defers
        job.admission = GUARANTEED if guaranteed else BEST_EFFORT
        if not guaranteed:
            self._effort[number].add(job.id)
        request = msgspec.structs.replace(
            job.engine_request(), slo=self._slo(job, arrival, guaranteed), max_tokens=self._max_tokens(job)
        )
        fleet.submit(job, number, request, now_s)
        self._plan(fleet, number, now_s, decision.preempt)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        del self._jobs[job.id]
        self._classes = self._classes.finished(job.request.slo_class, job.emitted)
        self._effort[job.replica].discard(job.id)
        self._promoted[job.replica].discard(job.id)
        self._plan(fleet, job.replica, now_s)
        return True

    def passes_on(self, job: StageJob, replica: int) -> bool:
        return not job.last

    def _slo(self, job: StageJob, arrival: Arrival, guaranteed: bool) -> SloArgs:
        hopeful = guaranteed or self._front_end.selects
        return SloArgs(
            slo_id=job.id,
            slo_class=job.request.slo_class,
            slo_ttft_ms=_milliseconds(arrival.ttft_s) if hopeful else None,
            slo_tpot_ms=_milliseconds(arrival.tpot_s) if hopeful else None,
            slo_guaranteed=int(guaranteed),
            slo_weight=arrival.weight,
            slo_acceptance=arrival.acceptance,
            slo_output_tokens=arrival.output_tokens,
            slo_switch_at=arrival.switch_at,
            slo_next_tpot_ms=_milliseconds(arrival.next_tpot_s) if hopeful else None,
        )

    def _arrival(self, job: StageJob) -> Arrival:
        stage = job.stage
        return Arrival(
            request_id=job.id,
            ttft_s=stage.ttft_slo_s,
            tpot_s=stage.tpot_slo_s,
            prompt_tokens=stage.cached_tokens + stage.prompt_tokens,
            output_tokens=self._output_tokens(job),
            weight=job.request.weight,
            acceptance=self._rates.of(job.request.slo_class) if self._front_end.speculates else 0.0,
            switch_at=stage.switch_at,
            next_tpot_s=stage.next_tpot_slo_s,
        )

    def _output_tokens(self, job: StageJob) -> int:
        """The planning value of a stage's output: a high quantile of its class's, what the window leaves at most."""
        return self._classes.planning_tokens(job.request.slo_class, self._max_tokens(job), USUAL_TOKENS)

    def _max_tokens(self, job: StageJob) -> int:
        """What the window leaves for the output, which is all that a request without a limit says."""
        stage = job.stage
        return max(stage.output_tokens, self._profile.max_model_tokens - stage.cached_tokens - stage.prompt_tokens)

    def _place(self, job: StageJob, arrival: Arrival, now_s: float) -> tuple[int, Decision]:
        """The replica that takes it, and the planner's word."""
        request = job.engine_request()
        asked = list(range(len(self.replicas)))
        if not self._front_end.routes:
            # As for the baselines: later stages follow their prefix.
            asked = [job.replica if job.replica >= 0 else next(self._turns)]
        states = [self._state(n, now_s, self.replicas[n].state.cached(request)) for n in asked]
        decision = place(arrival, states, now_s)
        return asked[decision.replica], decision

    def _plan(self, fleet: Fleet, number: int, now_s: float, preempt: tuple[str, ...] = ()) -> None:
        """Promote whom there is room for, then send the replica its next iterations."""
        if not self._effort[number] and not self._front_end.horizon_s:
            return
        state = self._state(number, now_s)
        promoted = promote(state, now_s) if self._front_end.promotes else ()
        rows = state.jobs.rows
        for job_id in promoted:
            rows["guaranteed"][state.jobs.row_of(job_id)] = True
            self._effort[number].discard(job_id)
            self._promoted[number].add(job_id)
            self._jobs[job_id].admission = GUARANTEED
            self._jobs[job_id].promoted_s = now_s
        planned = plan_replica(state, now_s, horizon_s=self._front_end.horizon_s)
        plan = Plan(
            replica=str(number),
            epoch=next(self._epochs[number]),
            issued_at_s=now_s,
            horizon=horizon_of(planned),
            guaranteed=tuple(self._promoted[number]),
            hold=planned.hold,
            preempt=(*planned.preempt, *preempt),
        )
        self.replicas[number].apply(plan)
        fleet.wake(number, now_s)

    def _state(self, number: int, now_s: float, prefix_tokens: int = 0) -> ReplicaState:
        """The replica as it will be once the iteration in flight has ended."""
        replica = self.replicas[number]
        return ReplicaState(
            name=str(number),
            profile=self._profile,
            jobs=self._policies[number].jobs(replica.in_flight, replica.unseen),
            free_blocks=replica.state.pool.free,
            busy_for_s=replica.in_flight.end_s - now_s if replica.in_flight else 0.0,
            running_for_s=replica.running_for_s(now_s),
            prefix_tokens=prefix_tokens,
            firm_tokens=firm_tokens(self._prompts),
            patience=self._policies[number].follower.patience,
        )

    def _policy(self, state: EngineState) -> SlosgatePolicy:
        policy = SlosgatePolicy(state, profile=self._profile, rates=self._rates)
        self._policies.append(policy)
        return policy


_SPECULATING = FrontEnd(speculates=True)
_FRONT_ENDS = {
    "slosgate": _SPECULATING,
    "slosgate-ar": FrontEnd(),
    # Ablations. What can't be guaranteed on arrival loses its deadline.
    "slosgate-greedy": replace(_SPECULATING, promotes=False, selects=False),
    # Nobody is deferred to best effort, in a burst neither.
    "slosgate-no-burst": replace(_SPECULATING, defers=False),
    # What is best effort on arrival stays it.
    "slosgate-no-promotion": replace(_SPECULATING, promotes=False),
    # Each replica's admission is planned, where a request goes is not.
    "slosgate-no-routing": replace(_SPECULATING, routes=False),
}
VARIANTS: dict[str, SystemFactory] = {name: partial(PlannedSystem, front_end=f) for name, f in _FRONT_ENDS.items()}


def _milliseconds(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds * 1e3
