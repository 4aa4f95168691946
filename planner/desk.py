"""The desk: whatever decides about a request or a replica, in one place.

    decide(arrival, replicas, now_s, settings)   where a request goes and what it is promised, or why it is refused
    run_next(replica, now_s, settings)           what a replica is to run next, and what can be promoted there

The gateway, the simulated system and an engine without a gateway all ask here, with settings that have their defaults
here and nowhere else. What is decided by (placing, promotion, the plan itself) stands in `planner.controller`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from msgspec.structs import replace

from slosgate.planner.controller import Arrival, Decision, ReplicaState, place, plan_replica, promote
from slosgate.planner.dues import HEADROOM_S, HEADROOM_SHARE
from slosgate.planner.jobs import JobTable
from slosgate.planner.plans import ReplicaPlan
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.routing import ROUTERS, RouterName

WITHOUT_SLO_WEIGHT = 1e-3  # of a request that only stands in line: one with an SLO goes first
LATER_S = 1.0  # what a refused client is told to wait when the plan can't say how long


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """How requests are judged and replicas planned. These are the defaults that ship."""

    headroom_s: float = HEADROOM_S  # plans aim this much before the TTFT SLO,
    headroom_share: float = HEADROOM_SHARE  # but at most this share of it
    router: RouterName = "least-loss"  # in whose order replicas are asked
    hop_limit: int = 8  # replicas asked for a guarantee before a request becomes best effort
    overtaken_s: float = 30.0  # how long a request without an SLO may be overtaken by best effort that has one
    horizon_s: float = 0.5  # how far ahead the plan of a replica reaches


SHIPPED = DeskSettings()
# A replica that plans for itself chooses every iteration by the rule that a horizon is rolled forward with: it needs
# none.
ALONE = DeskSettings(horizon_s=0.0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No place for a request. `retry_after_s` is None when asking again can never help."""

    code: Literal["slo_not_admitted", "slo_unreachable", "slo_unsupported", "context_length_exceeded"]
    field: Literal["", "prompt", "ttft", "tpot", "e2e", "n"]  # of the request, that it is refused for
    reason: str
    retry_after_s: float | None = None


Verdict: TypeAlias = Decision | Refusal


@dataclass(frozen=True, slots=True)
class Orders:
    """What a replica is to do next."""

    promoted: tuple[str, ...]  # best-effort requests that are guaranteed from now on
    plan: ReplicaPlan  # made with those promises given


def decide(
    arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float, settings: DeskSettings = SHIPPED
) -> Verdict:
    """Where a request goes, with or without a promise, or why it is refused.

    Without replicas whose profile is known there is nothing to decide on but whether to refuse: the decision then
    names replica 0.
    """
    refusal = never(arrival, replicas)
    if refusal is not None:
        return refusal
    if not replicas:
        decision = Decision(0, False, math.inf, "the replica's hardware profile is unknown", None)
    else:
        planned = replace(arrival, ttft_s=due_in_s(arrival, settings)) if arrival.has_slo else arrival
        ranking = ROUTERS[settings.router]
        placed = place(planned, replicas, now_s, hop_limit=settings.hop_limit, ranking=ranking)
        decision = _without_empty_promise(arrival, placed)
    return _as_policy_wants(arrival, decision, replicas, settings)


def run_next(state: ReplicaState, now_s: float, settings: DeskSettings = SHIPPED, *, promotes: bool = True) -> Orders:
    """What to promote on a replica, and its next iterations with those promises given. Changes nothing."""
    promoted = promote(state, now_s) if promotes else ()
    if promoted:
        jobs = state.jobs.copy()
        for job_id in promoted:
            jobs[job_id]["guaranteed"] = True
        state = replace(state, jobs=jobs)
    plan = plan_replica(state, now_s, horizon_s=settings.horizon_s)
    return Orders(promoted, plan)


def never(arrival: Arrival, replicas: Sequence[ReplicaState]) -> Refusal | None:
    """Why asking again can never help, as far as that is certain: only a counted prompt is ever too long."""
    if arrival.prompt_is_exact and replicas:
        longest = window_tokens([replica.profile for replica in replicas])
        prompt_tokens = arrival.longest_tokens or arrival.prompt_tokens
        if prompt_tokens >= longest:
            return Refusal(
                "context_length_exceeded",
                "prompt",
                f"the prompt has {prompt_tokens} tokens; accepted: at most {longest - 1}, so that the answer "
                f"fits into the model's window of {longest}",
            )
    # What may overflow is never refused for its SLO: a provider outside may be faster.
    if not (arrival.has_slo or arrival.relative) or arrival.when_full == "overflow":
        return None
    if arrival.when_full == "reject":
        if arrival.sequences > 1:
            reason = f"an SLO is guaranteed for one output sequence, not for {arrival.sequences}; accepted: n = 1"
            return Refusal("slo_unsupported", "n", reason)
        if not replicas:
            reason = "no replica of this model has a hardware profile, so no SLO can be guaranteed"
            return Refusal("slo_unsupported", "", reason)
    if replicas and arrival.prompt_is_exact and (arrival.stated or arrival.when_full == "reject"):
        return _unreachable(arrival, replicas)
    return None


def _unreachable(arrival: Arrival, replicas: Sequence[ReplicaState]) -> Refusal | None:
    """An SLO that an idle replica could not keep, with what it may have cached of the prompt.

    Where a replica has seen the prompt's beginning, nobody knows how much more of it is cached: an answer may stand in
    it. What a replica has learned of late may pass: the faster of that and of what it began with counts.
    """
    slo_s, prompt = arrival.ttft_s + arrival.waited_s, arrival.prompt_tokens
    known = [(r, profile) for r in replicas for profile in (r.profile, r.registered) if profile is not None]
    least = {replica.name: 1 if replica.cached.likely else prompt for replica in replicas}
    ttft_s, tokens = min(
        (profile.zero_load_ttft_s(least[r.name], prompt - least[r.name]), least[r.name]) for r, profile in known
    )
    if slo_s < ttft_s and not arrival.derived:
        return Refusal(
            "slo_unreachable",
            "ttft",
            f"a TTFT of {slo_s * 1000:.4g} ms can't be reached: an idle replica takes {ttft_s * 1000:.4g} ms for "
            f"{tokens} prompt tokens; accepted: at least that",
        )
    tpot_s = min(profile.perf.iteration_s(1, prompt + 1, 1) for _, profile in known)
    if arrival.tpot_s < tpot_s and not arrival.derived:
        return Refusal(
            "slo_unreachable",
            "tpot",
            f"a TPOT of {arrival.tpot_s * 1000:.4g} ms can't be reached: an idle replica takes {tpot_s * 1000:.4g} ms "
            f"a token after {prompt} prompt tokens; accepted: at least that",
        )
    whole_s, least_s = arrival.whole_s + arrival.waited_s, ttft_s + (arrival.fewest_tokens - 1) * tpot_s
    if whole_s < least_s:
        return Refusal(
            "slo_unreachable",
            "e2e",
            f"{whole_s * 1000:.4g} ms for the whole answer can't be reached: an idle replica takes "
            f"{least_s * 1000:.4g} ms for {tokens} prompt tokens and {arrival.fewest_tokens} of output; accepted: at "
            "least that",
        )
    return None


def _without_empty_promise(arrival: Arrival, decision: Decision) -> Decision:
    """Guarantees are for requests with an SLO and one output sequence: the plan counts each request as one."""
    if not arrival.has_slo:
        return replace(decision, guaranteed=False, reason="no SLO was asked for")
    if arrival.sequences > 1:
        return replace(decision, guaranteed=False, reason="several sequences in one request", preempt=())
    return decision


def _as_policy_wants(
    arrival: Arrival, decision: Decision, replicas: Sequence[ReplicaState], settings: DeskSettings
) -> Verdict:
    """What is not guaranteed is best effort, or refused where that is what its class wants.

    But nobody is told to come back for what will be no different then. What is known for certain to be out of reach
    has been refused for good before; the rest may be in time all the same, and is served as best effort.
    """
    if decision.guaranteed or not arrival.has_slo or not arrival.at_once:
        return decision
    if arrival.when_full == "reject" and not _promised_when_idle(arrival, replicas, settings):
        return replace(decision, reason="not even an idle replica could promise this SLO", retry_after_s=None)
    wait_s = LATER_S if decision.retry_after_s is None else decision.retry_after_s
    return Refusal("slo_not_admitted", "", decision.reason, wait_s)


def _promised_when_idle(arrival: Arrival, replicas: Sequence[ReplicaState], settings: DeskSettings) -> bool:
    """Whether a replica without work would promise it, as it is now or as it began."""
    profiles: list[HardwareProfile] = []
    for known in (profile for replica in replicas for profile in (replica.profile, replica.registered)):
        if known is not None and known not in profiles:
            profiles.append(known)
    idle = [ReplicaState("", profile, JobTable(), profile.kv_blocks) for profile in profiles]
    fresh = replace(arrival, ttft_s=arrival.ttft_s + arrival.waited_s, waited_s=0.0)
    planned = replace(fresh, ttft_s=due_in_s(fresh, settings))
    return place(planned, idle, 0.0).guaranteed


def due_in_s(arrival: Arrival, settings: DeskSettings = SHIPPED) -> float:
    """How long from now until the first token is planned for; without an SLO, until no other may go first."""
    if not arrival.has_slo:
        return settings.overtaken_s - arrival.waited_s
    return planned_ttft_s(arrival.ttft_s + arrival.waited_s, settings) - arrival.waited_s


def planned_ttft_s(ttft_s: float, settings: DeskSettings = SHIPPED) -> float:
    """The TTFT to plan for, so that the SLO `ttft_s` holds at the client."""
    return max(ttft_s - settings.headroom_s, ttft_s * (1 - settings.headroom_share))


def rank(arrival: Arrival) -> float:
    """The weight a request competes with."""
    return arrival.weight * (1.0 if arrival.has_slo else WITHOUT_SLO_WEIGHT)


def window_tokens(profiles: Sequence[HardwareProfile]) -> int:
    """The longest prompt and output together that any of them takes; a large number when none says."""
    return max((profile.max_model_tokens for profile in profiles), default=1 << 30)
