"""SLO-aware rivals in virtual time: requests carry their SLOs, replicas order them by a rule, nobody promises anything.

Each knows what slosgate knows: the SLOs, the performance model, output lengths learned per class; not when a model's
thinking ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import msgspec

from slosgate.engines.follower import Rule
from slosgate.engines.messages import SloArgs
from slosgate.engines.sim.policies.deadlines import RulePolicy
from slosgate.engines.sim.policies.edf import Edf
from slosgate.engines.sim.policies.jitserve import JitServe
from slosgate.engines.sim.policies.qoserve import QoServe
from slosgate.engines.sim.policies.scorpio import Scorpio
from slosgate.engines.sim.state import EngineState
from slosgate.engines.sim.systems.base import Fleet, Settings, StageJob, SystemFactory, equal_replicas
from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.lengths import USUAL_TOKENS, ClassStatistics
from slosgate.planner.routing import ROUTERS, RouterName

RuleMaker: TypeAlias = Callable[[Settings], Rule]


class Rival:
    """Replicas that follow one rule each, behind one of the planner's routers. Later stages follow their prefix."""

    def __init__(self, settings: Settings, rule: RuleMaker, router: RouterName = "round-robin") -> None:
        self._policies: list[RulePolicy] = []
        self._profile = settings.profile
        self._classes = ClassStatistics()
        self._router = ROUTERS[router]

        def policy(state: EngineState) -> RulePolicy:
            self._policies.append(RulePolicy(state, rule(settings)))
            return self._policies[-1]

        self.replicas = equal_replicas(settings, policy)
        self._sent_s = [-math.inf] * len(self.replicas)

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        stage = job.stage
        room = max(stage.output_tokens, self._profile.max_model_tokens - stage.cached_tokens - stage.prompt_tokens)
        request = msgspec.structs.replace(job.engine_request(), slo=self._slo(job, room), max_tokens=room)
        replica = job.replica
        if replica < 0:
            arrival = Arrival(job.id, stage.ttft_slo_s, stage.tpot_slo_s, request.prompt_tokens, stage.output_tokens)
            replica = self._router(arrival, [self._state(n) for n in range(len(self.replicas))], now_s)[0]
            self._sent_s[replica] = now_s
        fleet.submit(job, replica, request, now_s)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        self._classes = self._classes.finished(job.request.slo_class, job.emitted)
        return True

    def passes_on(self, job: StageJob, replica: int) -> bool:
        return False

    def _state(self, number: int) -> ReplicaState:
        """A replica as it will be when its iteration in flight has ended."""
        replica = self.replicas[number]
        jobs = self._policies[number].jobs(replica.in_flight, replica.unseen)
        return ReplicaState(
            str(number), replica.profile, jobs, replica.state.pool.free, sent_s=self._sent_s[number]
        )  # fmt: skip

    def _slo(self, job: StageJob, max_tokens: int) -> SloArgs:
        stage = job.stage
        return SloArgs(
            slo_id=job.id,
            slo_class=job.request.slo_class,
            slo_ttft_ms=_milliseconds(stage.ttft_slo_s),
            slo_tpot_ms=_milliseconds(stage.tpot_slo_s),
            slo_guaranteed=1,  # all are ordered by their deadlines: none is best effort to begin with
            slo_weight=job.request.weight,
            slo_output_tokens=self._classes.planning_tokens(job.request.slo_class, max_tokens, USUAL_TOKENS),
        )


def _milliseconds(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds * 1e3


def _edf(settings: Settings) -> Rule:
    return Edf(settings.budget, settings.drafts, settings.defer_below)


def _qoserve(settings: Settings) -> Rule:
    return QoServe(settings.budget, settings.drafts)


def _scorpio(settings: Settings) -> Rule:
    return Scorpio(settings.budget, settings.drafts)


def _jitserve(settings: Settings) -> Rule:
    return JitServe(settings.budget, settings.drafts, defer_below=settings.defer_below)


RIVALS: dict[str, SystemFactory] = {
    "edf": partial(Rival, rule=_edf),
    "qoserve": partial(Rival, rule=_qoserve),
    "scorpio": partial(Rival, rule=_scorpio),
    "jitserve": partial(Rival, rule=_jitserve),
    "edf-least-work": partial(Rival, rule=_edf, router="least-work"),
    "polyserve": partial(Rival, rule=_edf, router="polyserve"),
}
