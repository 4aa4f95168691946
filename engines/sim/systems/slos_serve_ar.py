"""slosgate without speculation: the planner places every arrival, promotes and plans; followers carry it out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from engines.messages import Plan, PlannedIteration, SloArgs
from engines.sim.policies.slosgate import SlosgatePolicy
from engines.sim.state import EngineState
from engines.sim.systems.base import BEST_EFFORT, GUARANTEED, Fleet, Settings, StageJob, equal_replicas
from planner.controller import Arrival, ReplicaState, place, plan_replica, promote


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """How the planner is used; each ablation changes one of these."""

    horizon_s: float = 0.0
    promotes: bool = True


class SlosServe:
    """What the gateway does, without HTTP and Redis between it and the replicas."""

    def __init__(self, settings: Settings, front_end: FrontEnd | None = None) -> None:
        self._policies: list[SlosgatePolicy] = []
        self.replicas = equal_replicas(settings, self._policy)
        self._front_end = front_end or FrontEnd()
        self._jobs: dict[str, StageJob] = {}
        self._epochs = [0] * len(self.replicas)

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        self._jobs[job.id] = job
        stage, request = job.stage, job.engine_request()
        arrival = Arrival(
            request_id=job.id,
            ttft_s=stage.ttft_slo_s,
            tpot_s=stage.tpot_slo_s,
            prompt_tokens=request.prompt_tokens,
            output_tokens=stage.output_tokens,
            weight=job.request.weight,
        )
        states = [self._state(n, now_s, r.state.cached(request)) for n, r in enumerate(self.replicas)]
        decision = place(arrival, states, now_s)
        job.admission = GUARANTEED if decision.guaranteed else BEST_EFFORT
        slo = SloArgs(
            slo_id=job.id,
            slo_class=job.request.slo_class,
            slo_ttft_ms=_milliseconds(stage.ttft_slo_s),
            slo_tpot_ms=_milliseconds(stage.tpot_slo_s),
            slo_guaranteed=int(decision.guaranteed),
            slo_weight=job.request.weight,
        )
        fleet.submit(job, decision.replica, msgspec.structs.replace(request, slo=slo), now_s)
        self._plan(fleet, decision.replica, now_s, decision.preempt)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        del self._jobs[job.id]
        self._plan(fleet, job.replica, now_s)
        return True

    def _plan(self, fleet: Fleet, replica: int, now_s: float, preempt: tuple[str, ...] = ()) -> None:
        """Promote whom there is room for, then send the replica its next iterations."""
        state = self._state(replica, now_s)
        rows = state.jobs.rows
        if rows["guaranteed"].all() and not self._front_end.horizon_s:
            return
        promoted = promote(state, now_s) if self._front_end.promotes else ()
        for job_id in promoted:
            rows["guaranteed"][state.jobs.row_of(job_id)] = True
            self._jobs[job_id].admission = GUARANTEED
            self._jobs[job_id].promoted_s = now_s
        planned = plan_replica(state, now_s, horizon_s=self._front_end.horizon_s)
        self._epochs[replica] += 1
        plan = Plan(
            replica=str(replica),
            epoch=self._epochs[replica],
            issued_at_s=now_s,
            horizon=tuple(
                PlannedIteration(
                    token_budget=step.token_budget,
                    duration_s=step.duration_s,
                    speculation=step.speculation,
                    prefill=step.prefill,
                )
                for step in planned.horizon
            ),
            guaranteed=promoted,
            hold=planned.hold,
            preempt=(*planned.preempt, *preempt),
        )
        self.replicas[replica].apply(plan)
        fleet.wake(replica, now_s)

    def _state(self, number: int, now_s: float, prefix_tokens: int = 0) -> ReplicaState:
        """The replica as it will be once the iteration in flight has ended."""
        replica = self.replicas[number]
        return ReplicaState(
            name=str(number),
            profile=replica.profile,
            jobs=self._policies[number].jobs(replica.in_flight, replica.unseen),
            free_blocks=replica.state.pool.free,
            busy_for_s=replica.in_flight.end_s - now_s if replica.in_flight else 0.0,
            prefix_tokens=prefix_tokens,
        )

    def _policy(self, state: EngineState) -> SlosgatePolicy:
        policy = SlosgatePolicy(state)
        self._policies.append(policy)
        return policy


def _milliseconds(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds * 1e3
