"""slosgate in virtual time: the planner places every arrival, promotes and plans; followers carry it out.

What the gateway does, without HTTP and Redis between it and the replicas. Each ablation changes one `FrontEnd` field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, cycle
from typing import NamedTuple

import msgspec

from slosgate.engines.messages import Plan, SloArgs
from slosgate.engines.sim.acceptance import AcceptanceRates
from slosgate.engines.sim.contents import leading
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
from slosgate.planner.jobs import JobTable
from slosgate.planner.lengths import USUAL_TOKENS, ClassStatistics, LengthHistogram, firm_tokens, for_its_weight
from slosgate.planner.loops import weight_of_next
from slosgate.planner.pace import NOT_YET
from slosgate.planner.prefixes import NOT_CACHED, Cached, Leading, Prefixes
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.routing import ROUTERS


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """How the planner is used. As it ships, unless an ablation or a test says otherwise."""

    settings: DeskSettings = SHIPPED
    speculates: bool = False
    promotes: bool = True  # best effort becomes a guarantee when room appears
    routes: bool = True  # False: round robin decides, the planner is asked about that one replica
    defers: bool = True  # False: nothing becomes best effort, fitting or not
    remembers: bool = True  # what replicas have been sent: nothing of a prompt is taken to be cached otherwise
    selects: bool = True  # False: what is best effort on arrival has no deadline any more


class _Sent(NamedTuple):
    """A prompt on its way, and what was expected of it."""

    leading: Leading
    prompt_tokens: int
    cached: Cached


class _Known:
    """What the front end knows of one replica beside its reports: what it has sent there."""

    def __init__(self, profile: HardwareProfile) -> None:
        self.prompts = LengthHistogram()
        self.patience = Patience()
        self.prefixes = Prefixes(profile.kv_blocks * profile.block_tokens)
        self.waiting: dict[str, _Sent] = {}  # whose first token has not come, as far as is known
        self.expected: dict[str, _Sent] = {}  # of whose prompts the replica has not told how much was cached
        self.effort: set[str] = set()  # best effort that is there
        self.promoted: set[str] = set()
        self.epochs = count(1)
        self.sent_s = -math.inf  # when the latest request left for it

    def sent(self, arrival: Arrival, due_s: float, sent: _Sent, profile: HardwareProfile, now_s: float) -> None:
        uncached, self.sent_s = arrival.prompt_tokens - sent.cached.sure, now_s
        self.prefixes.sent(sent.leading, arrival.prompt_tokens)
        self.waiting[arrival.request_id] = self.expected[arrival.request_id] = sent
        if arrival.has_slo:
            self.prompts = self.prompts.observe(for_its_weight(uncached, arrival.weight))
            self.patience.observe(due_s, uncached, profile)

    def looked(self, jobs: JobTable, hits: Mapping[str, int]) -> None:
        """The jobs are such, and so much was cached: prompts that have been computed are from now on."""
        for job_id in [job_id for job_id in self.waiting if job_id in jobs and not jobs[job_id]["prompt_left"]]:
            sent = self.waiting.pop(job_id)
            self.prefixes.computed(sent.leading, sent.prompt_tokens)
        for job_id in [job_id for job_id in self.expected if job_id in hits]:
            self.prefixes.counted(self.expected.pop(job_id).cached.guessed, hits[job_id])

    def ended(self, job: StageJob, sent: _Sent) -> None:
        self.waiting.pop(job.id, None)
        if self.expected.pop(job.id, None) is not None:
            self.prefixes.counted(sent.cached.guessed, job.cached_tokens)
        self.prefixes.ended(sent.leading, sent.prompt_tokens, job.emitted)
        self.effort.discard(job.id)
        self.promoted.discard(job.id)


class PlannedSystem:
    """Replicas that follow plans, and the front end that makes them."""

    def __init__(self, settings: Settings, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._delays = settings.delays
        self._profile = settings.profile
        self._rates = AcceptanceRates()
        self._policies: list[SlosgatePolicy] = []
        self.replicas = equal_replicas(settings, self._policy, self._delays.http_s)
        self._known = [_Known(replica.profile) for replica in self.replicas]
        self._classes = ClassStatistics()  # output lengths are learned, not announced
        self._turns = cycle(range(len(self.replicas)))
        self._jobs: dict[str, StageJob] = {}
        self._sent: dict[str, _Sent] = {}
        self._unpromised: set[str] = set()  # requests of which a call was not promised its SLO

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        arrival = self._arrival(job)
        seen = leading(job.parts, arrival.prompt_tokens, self._profile.block_tokens)
        number, verdict = self._decide(job, arrival, seen, now_s)
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
        remembers = self._front_end.remembers
        cached = known.prefixes.cached(seen, arrival.prompt_tokens) if remembers else NOT_CACHED
        sent = self._sent[job.id] = _Sent(seen, arrival.prompt_tokens, cached)
        known.sent(arrival, due_s, sent, self._policies[number].follower.profile, now_s)
        self._plan(fleet, number, now_s, verdict.preempt)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        del self._jobs[job.id]
        if job.admission != GUARANTEED:
            self._unpromised.add(job.request.id)
        self._classes = self._classes.finished(job.request.slo_class, job.emitted)
        self._known[job.replica].ended(job, self._sent.pop(job.id))
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
            switch_at=NOT_YET if stage.switch_at else 0,
            next_tpot_s=stage.next_tpot_slo_s if stage.switch_at else math.inf,
            prompt_tokens=stage.cached_tokens + stage.prompt_tokens,
            output_tokens=self._output_tokens(job),
            weight=weight_of_next(job.request.weight, promised=self._goes_on(job)),
            acceptance=self._rates.of(job.request.slo_class) if self._front_end.speculates else 0.0,
            when_full=job.request.when_full,
            prompt_is_exact=True,
        )

    def _goes_on(self, job: StageJob) -> bool:
        """Whether a stage goes on from others that were all promised their SLO."""
        return job.index > 0 and job.stage.cached_tokens > 0 and job.request.id not in self._unpromised

    def _output_tokens(self, job: StageJob) -> int:
        """The planning value of a stage's output: a high quantile of its class's, what the window leaves at most."""
        return self._classes.planning_tokens(job.request.slo_class, self._max_tokens(job), USUAL_TOKENS)

    def _max_tokens(self, job: StageJob) -> int:
        """What the window leaves for the output, which is all that a request without a limit says."""
        stage = job.stage
        return max(stage.output_tokens, self._profile.max_model_tokens - stage.cached_tokens - stage.prompt_tokens)

    def _taking(self) -> list[int]:
        """The replicas that take new requests."""
        return list(range(len(self.replicas)))

    def _decide(self, job: StageJob, arrival: Arrival, seen: Leading, now_s: float) -> tuple[int, Verdict]:
        """The replica that takes it, and the desk's word."""
        asked = self._taking()
        if not self._front_end.routes:
            # As for the baselines: later stages follow their prefix.
            asked = [job.replica if job.replica >= 0 else next(self._turns)]
        states = [self._cached(self._state(n, now_s), n, arrival, seen) for n in asked]
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

    def _cached(self, state: ReplicaState, number: int, arrival: Arrival, seen: Leading) -> ReplicaState:
        if not self._front_end.remembers:
            return state
        known = self._known[number]
        known.looked(state.jobs, self.replicas[number].state.hits)
        return msgspec.structs.replace(state, cached=known.prefixes.cached(seen, arrival.prompt_tokens))

    def _state(self, number: int, now_s: float) -> ReplicaState:
        """The replica by its latest report: as it will be once the iteration in flight has ended."""
        replica, policy, known = self.replicas[number], self._policies[number], self._known[number]
        flight = replica.in_flight
        if flight is not None and now_s < flight.start_s + self._delays.report_s:
            flight = None  # it is not known of yet
        latest = flight or replica.previous
        return ReplicaState(
            name=str(number),
            profile=policy.follower.profile,
            jobs=policy.jobs(flight, replica.unseen),
            free_blocks=replica.state.pool.free,
            busy_for_s=max(0.0, latest.end_s - now_s) if latest else 0.0,
            running_for_s=now_s - latest.start_s if latest else 0.0,
            overdue_s=max(0.0, now_s - latest.end_s) if latest else 0.0,
            firm_tokens=firm_tokens(known.prompts),
            patience=known.patience,
            sent_s=known.sent_s,
        )

    def _policy(self, state: EngineState) -> SlosgatePolicy:
        policy = SlosgatePolicy(state, rates=self._rates)
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
    # Nobody knows where a prompt's beginning has been before.
    "slosgate-no-prefixes": FrontEnd(remembers=False),
    # Each replica's admission is planned, where a request goes is not.
    "slosgate-no-routing": replace(_SPECULATING, routes=False),
    # Without speculation, behind each router.
    **{f"slosgate-ar-{name}": FrontEnd(replace(SHIPPED, router=name)) for name in ROUTERS},
}
VARIANTS: dict[str, SystemFactory] = {name: partial(PlannedSystem, front_end=f) for name, f in _FRONT_ENDS.items()}
