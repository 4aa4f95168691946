"""slosgate in virtual time: the planner places every arrival, promotes and plans; followers carry it out.

What the gateway does, without HTTP and Redis between it and the replicas. Each ablation changes one `FrontEnd` field.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import count, cycle

import msgspec

from slosgate.engines.messages import Plan, SloArgs
from slosgate.engines.sim.acceptance import AcceptanceRates
from slosgate.engines.sim.policies.slosgate import SlosgatePolicy
from slosgate.engines.sim.state import EngineState
from slosgate.engines.sim.systems.base import (
    BEST_EFFORT,
    GUARANTEED,
    REFUSED,
    Fleet,
    Settings,
    StageJob,
    SystemFactory,
    equal_replicas,
)
from slosgate.engines.told import slo_args
from slosgate.planner.arrivals import Patience
from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.desk import SHIPPED, DeskSettings, Refusal, Verdict, decide, due_in_s, run_next
from slosgate.planner.lengths import USUAL_TOKENS, ClassStatistics, LengthHistogram, firm_tokens, for_its_weight
from slosgate.planner.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """How the planner is used. As it ships, unless an ablation or a test says otherwise."""

    settings: DeskSettings = SHIPPED
    speculates: bool = False
    promotes: bool = True  # best effort becomes a guarantee when room appears
    routes: bool = True  # False: round robin decides, the planner is asked about that one replica
    defers: bool = True  # False: nothing becomes best effort, fitting or not
    selects: bool = True  # False: what is best effort on arrival has no deadline any more


class _Known:
    """What the front end knows of one replica beside its reports: what it has sent there."""

    def __init__(self) -> None:
        self.prompts = LengthHistogram()
        self.patience = Patience()
        self.sessions: set[str] = set()  # whose earlier stages it has seen
        self.effort: set[str] = set()  # best effort that is there
        self.promoted: set[str] = set()
        self.epochs = count(1)

    def sent(self, arrival: Arrival, due_s: float, session: str, profile: HardwareProfile) -> None:
        self.sessions.add(session)
        if arrival.has_slo:
            self.prompts = self.prompts.observe(for_its_weight(arrival.prompt_tokens, arrival.weight))
            self.patience.observe(due_s, arrival.prompt_tokens, profile)

    def ended(self, job_id: str) -> None:
        self.effort.discard(job_id)
        self.promoted.discard(job_id)


class PlannedSystem:
    """Replicas that follow plans, and the front end that makes them."""

    def __init__(self, settings: Settings, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._delays = settings.delays
        self._profile = settings.profile
        self._rates = AcceptanceRates()
        self._policies: list[SlosgatePolicy] = []
        self.replicas = equal_replicas(settings, self._policy, self._delays.http_s)
        self._known = [_Known() for _ in self.replicas]
        self._classes = ClassStatistics()  # output lengths are learned, not announced
        self._turns = cycle(range(len(self.replicas)))
        self._jobs: dict[str, StageJob] = {}

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        arrival = self._arrival(job)
        number, verdict = self._decide(job, arrival, now_s)
        if isinstance(verdict, Refusal):
            job.admission = REFUSED
            return
        self._jobs[job.id] = job
        guaranteed = verdict.guaranteed or not self._front_end.defers
        job.admission = GUARANTEED if guaranteed else BEST_EFFORT
        known, due_s = self._known[number], due_in_s(arrival, self._front_end.settings)
        if not guaranteed:
            known.effort.add(job.id)
        request = msgspec.structs.replace(
            job.engine_request(), slo=self._slo(job, arrival, guaranteed), max_tokens=self._max_tokens(job)
        )
        fleet.submit(job, number, request, now_s)
        known.sent(arrival, due_s, job.session, self._policies[number].follower.profile)
        self._plan(fleet, number, now_s, verdict.preempt)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        del self._jobs[job.id]
        self._classes = self._classes.finished(job.request.slo_class, job.emitted)
        self._known[job.replica].ended(job.id)
        self._plan(fleet, job.replica, now_s)
        return True

    def passes_on(self, job: StageJob, replica: int) -> bool:
        return not job.last

    def _slo(self, job: StageJob, arrival: Arrival, guaranteed: bool) -> SloArgs:
        told = slo_args(arrival, job.request.slo_class, self._front_end.settings, guaranteed=guaranteed)
        if guaranteed or self._front_end.selects:
            return told
        return msgspec.structs.replace(told, slo_ttft_ms=None, slo_tpot_ms=None)

    def _arrival(self, job: StageJob) -> Arrival:
        """What a gateway knows of a stage: neither how long its output will be, nor when its thinking ends."""
        stage = job.stage
        return Arrival(
            request_id=job.id,
            ttft_s=stage.ttft_slo_s,
            tpot_s=stage.tpot_slo_s,
            prompt_tokens=stage.cached_tokens + stage.prompt_tokens,
            output_tokens=self._output_tokens(job),
            weight=job.request.weight,
            acceptance=self._rates.of(job.request.slo_class) if self._front_end.speculates else 0.0,
            when_full=job.request.when_full,
            prompt_is_exact=True,
        )

    def _output_tokens(self, job: StageJob) -> int:
        """The planning value of a stage's output: a high quantile of its class's, what the window leaves at most."""
        return self._classes.planning_tokens(job.request.slo_class, self._max_tokens(job), USUAL_TOKENS)

    def _max_tokens(self, job: StageJob) -> int:
        """What the window leaves for the output, which is all that a request without a limit says."""
        stage = job.stage
        return max(stage.output_tokens, self._profile.max_model_tokens - stage.cached_tokens - stage.prompt_tokens)

    def _decide(self, job: StageJob, arrival: Arrival, now_s: float) -> tuple[int, Verdict]:
        """The replica that takes it, and the desk's word."""
        asked = list(range(len(self.replicas)))
        if not self._front_end.routes:
            # As for the baselines: later stages follow their prefix.
            asked = [job.replica if job.replica >= 0 else next(self._turns)]
        states = [self._state(n, now_s, job) for n in asked]
        verdict = decide(arrival, states, now_s, self._front_end.settings)
        return (-1 if isinstance(verdict, Refusal) else asked[verdict.replica]), verdict

    def _plan(self, fleet: Fleet, number: int, now_s: float, preempt: tuple[str, ...] = ()) -> None:
        """Promote what there is room for, then send the replica its next iterations."""
        known = self._known[number]
        if not known.effort and not self._front_end.settings.horizon_s:
            return  # nothing to promote or preempt
        settings, promotes = self._front_end.settings, self._front_end.promotes
        orders = run_next(self._state(number, now_s), now_s, settings, promotes=promotes)
        for job_id in orders.promoted:
            known.effort.discard(job_id)
            known.promoted.add(job_id)
            self._jobs[job_id].admission = GUARANTEED
            self._jobs[job_id].promoted_s = now_s
        plan = Plan(
            replica=str(number),
            epoch=next(known.epochs),
            issued_at_s=now_s,
            horizon=orders.plan.horizon,
            guaranteed=tuple(known.promoted),
            preempt=(*orders.plan.preempt, *preempt),
        )
        self._send(fleet, number, plan, now_s)

    def _send(self, fleet: Fleet, number: int, plan: Plan, now_s: float) -> None:
        def come(at_s: float) -> None:
            self.replicas[number].apply(plan)
            fleet.wake(number, at_s)

        if self._delays.plan_s:
            fleet.at(now_s + self._delays.plan_s, come)
        else:
            come(now_s)

    def _state(self, number: int, now_s: float, job: StageJob | None = None) -> ReplicaState:
        """The replica by its latest report: as it will be once the iteration in flight has ended."""
        replica, policy, known = self.replicas[number], self._policies[number], self._known[number]
        flight = replica.in_flight
        if flight is not None and now_s < flight.start_s + self._delays.report_s:
            flight = None  # it is not known of yet
        prefix = job.stage.cached_tokens if job is not None and job.session in known.sessions else 0
        return ReplicaState(
            name=str(number),
            profile=policy.follower.profile,
            jobs=policy.jobs(flight, replica.unseen),
            free_blocks=replica.state.pool.free,
            busy_for_s=flight.end_s - now_s if flight else 0.0,
            running_for_s=now_s - flight.start_s if flight else 0.0,
            likely_prefix_tokens=prefix,
            firm_tokens=firm_tokens(known.prompts),
            patience=known.patience,
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
    # Nothing is deferred to best effort, in a burst neither.
    "slosgate-no-burst": replace(_SPECULATING, defers=False),
    # What is best effort on arrival stays it.
    "slosgate-no-promotion": replace(_SPECULATING, promotes=False),
    # Each replica's admission is planned, where a request goes is not.
    "slosgate-no-routing": replace(_SPECULATING, routes=False),
}
VARIANTS: dict[str, SystemFactory] = {name: partial(PlannedSystem, front_end=f) for name, f in _FRONT_ENDS.items()}
