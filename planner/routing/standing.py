"""A replica as a router weighs it for one request: its work, and whether the request can be in time there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.dues import next_due_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import PAIR, Floats, Load, iteration_s, pairs_of, tier_s, token_budget, with_decode
from slosgate.planner.machine import coefficients
from slosgate.planner.pacing import slope_of, steepest_term
from slosgate.planner.starting import PLANNED_SHARE

IDLE_TAU_S = 0.1  # how long an iteration may last when no decode is due


class Standing(NamedTuple):
    work_s: float  # until all prompts there and the request's own are computed; inf where the decodes leave no time
    feasible: bool  # its first token can be in time, its decode keep the pace, and its prompt fit
    tier_s: float  # the tightest TPOT SLO there; inf on an empty replica


class Wanted(NamedTuple):
    """What a request asks of a replica."""

    deadline_s: float
    tpot_s: float
    prompt_tokens: int
    cached_tokens: int
    most_tokens: float  # that the replica's memory may hold with it


def standings(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[Standing]:
    """Of every replica, in their order."""
    found = []
    for replica in replicas:
        coef, begins_s = coefficients(replica.profile.perf), now_s + replica.busy_for_s
        seen = standing(replica.jobs.rows, coef, wanted_of(arrival, replica, now_s), now_s, begins_s)
        found.append(Standing(*seen[:3]))
    return found


def wanted_of(arrival: Arrival, replica: ReplicaState, now_s: float) -> Wanted:
    profile = replica.profile
    return Wanted(
        now_s + arrival.ttft_s, arrival.strictest_s, arrival.prompt_tokens, replica.cached.likely,
        PLANNED_SHARE * profile.kv_blocks * profile.block_tokens,
    )  # fmt: skip


class Speed(NamedTuple):
    """How prompts get on beside the decodes: wall time."""

    token_s: float  # per prompt token
    pair_s: float  # per pair of one and a token that it attends to


@compiled
def standing(
    jobs: Jobs, coef: Floats, wanted: Wanted, now_s: float, begins_s: float
) -> tuple[float, bool, float, float]:
    """The fields of `Standing`, for what begins with the next iteration, and the KV tokens that it would hold."""
    own = max(1, wanted.prompt_tokens - wanted.cached_tokens)
    own_pairs = pairs_of(wanted.cached_tokens, own)
    left, pairs, before, before_pairs, held, tightest_s = own, own_pairs, own, own_pairs, wanted.prompt_tokens, np.inf
    for row in range(len(jobs)):
        job = jobs[row]
        held += job.context + job.prompt_left
        tightest_s = min(tightest_s, job.tpot_s)
        more = pairs_of(job.context, job.prompt_left)
        left += job.prompt_left
        pairs += more
        if job.deadline_s <= wanted.deadline_s:
            before += job.prompt_left
            before_pairs += more
    speed, count = speed_beside(jobs, coef, now_s, np.inf), len(jobs) + 1
    ready_s = begins_s + before * speed.token_s + before_pairs * speed.pair_s
    step_s = iteration_s(coef, count, held, count, 0.0)  # once all of them decode
    feasible = ready_s <= wanted.deadline_s and step_s <= min(tightest_s, wanted.tpot_s) and held <= wanted.most_tokens
    return begins_s - now_s + left * speed.token_s + pairs * speed.pair_s, feasible, tightest_s, float(held)


@compiled
def speed_beside(jobs: Jobs, coef: Floats, now_s: float, tpot_s: float) -> Speed:
    """Where every iteration carries all decodes, as far as their slack lets it be long, and a pace of `tpot_s`."""
    step, period_s, due_s = Load(0, 0, 0, 0, 0.0), np.inf, np.inf
    for row in range(len(jobs)):
        if jobs[row].prompt_left > 0:
            continue
        step = with_decode(step, jobs[row], 0)
        own_due_s = next_due_s(jobs[row], now_s)
        if own_due_s < np.inf:
            period_s, due_s = min(period_s, tier_s(jobs[row])), min(due_s, own_due_s)
    tau_s = min(tpot_s, IDLE_TAU_S if period_s == np.inf else max(period_s, due_s - now_s))
    room = token_budget(coef, tau_s, step.new, step.context, step.sequences + 1, 0.0)
    if room <= 0.0:
        return Speed(np.inf, 0.0)
    big, token_s = steepest_term(coef), tau_s / room
    pair_s = coef[big, PAIR]
    return Speed(token_s, pair_s * token_s / slope_of(coef, big) if pair_s > 0.0 else 0.0)
