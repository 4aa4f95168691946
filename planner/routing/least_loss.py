"""Where the most stay in time: a request is asked for first where it is in time and takes no other's place.

Of the prompts that wait on a replica, Moore and Hodgson's rule says how many can be in time beside the decodes, with
the newcomer and without it: the difference, by weight, is what the newcomer gains there. In a burst a short prompt thus
goes where it displaces a long one that was promised nothing, and one that would displace others goes where it does not.
A pace that is tighter than that of all decodes there makes iterations shorter from then on, and everything that waits
there later: so tiers keep apart where that pays. Where replicas gain the same, the least work is asked first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.controller import Arrival, ReplicaState
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, pairs_of
from slosgate.planner.machine import coefficients
from slosgate.planner.routing.base import going_on, looked_at
from slosgate.planner.routing.standing import Speed, Wanted, speed_beside, standing, wanted_of

DIGITS = 6  # of sums of weights


def least_loss(arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float) -> list[int]:
    near, far = looked_at(arrival, replicas)
    ranked = _ranked(near, arrival, replicas, now_s)
    if far and ranked[0][0] > -round(arrival.weight, DIGITS):  # it takes another's place on all of them, or is late
        return [n for *_, n in _ranked(near + far, arrival, replicas, now_s)]
    return [n for *_, n in ranked] + far


def _ranked(
    numbers: Sequence[int], arrival: Arrival, replicas: Sequence[ReplicaState], now_s: float
) -> list[tuple[float, int, float, int]]:
    """(what is lost there, what isn't cached, the work there, the replica), the best first."""
    found = []
    for n in numbers:
        replica = replicas[n]
        lost, work_s = loss(
            replica.jobs.rows, coefficients(replica.profile.perf), wanted_of(arrival, replica, now_s), arrival.weight,
            now_s, now_s + replica.busy_for_s,
        )  # fmt: skip
        found.append((round(lost, DIGITS), -going_on(arrival, replica), work_s, n))
    return sorted(found)


@compiled
def loss(jobs: Jobs, coef: Floats, wanted: Wanted, weight: float, now_s: float, begins_s: float) -> tuple[float, float]:
    """(value that is in time without the newcomer less that with it, work with it)."""
    seen = standing(jobs, coef, wanted, now_s, begins_s)
    before = speed_beside(jobs, coef, now_s, np.inf)
    after = speed_beside(jobs, coef, now_s, wanted.tpot_s)
    rows = np.flatnonzero((jobs["prompt_left"] > 0) & ~jobs["held"] & (jobs["deadline_s"] < np.inf))
    count = len(rows)
    tokens, pairs, due_s = np.empty(count + 1), np.empty(count + 1), np.empty(count + 1)
    worth, forced = np.empty(count + 1), np.zeros(count + 1, np.bool_)
    for i in range(count):
        job = jobs[rows[i]]
        tokens[i], pairs[i] = job.prompt_left, pairs_of(job.context, job.prompt_left)
        due_s[i], worth[i], forced[i] = job.deadline_s, job.weight, job.guaranteed
    own = max(1, wanted.prompt_tokens - wanted.cached_tokens)
    tokens[count], pairs[count] = own, pairs_of(wanted.cached_tokens, own)
    due_s[count], worth[count] = wanted.deadline_s, weight
    least = in_time(tokens[:count], pairs[:count], due_s[:count], worth[:count], forced[:count], before, begins_s)
    most = in_time(tokens, pairs, due_s, worth, forced, after, begins_s)
    fits = wanted.most_tokens >= seen[3]
    return (least - most) if fits else weight, seen[0]


@compiled
def in_time(
    tokens: Floats, pairs: Floats, due_s: Floats, worth: Floats, forced: Bools, speed: Speed, begins_s: float
) -> float:
    """The value of the prompts that can be in time by Moore and Hodgson's rule; what is forced is never dropped."""
    cost_s = tokens * speed.token_s + pairs * speed.pair_s
    chosen = np.zeros(len(tokens), np.bool_)
    ends_s, value = begins_s, 0.0
    for i in np.argsort(due_s, kind="mergesort"):
        if begins_s + cost_s[i] > due_s[i] and not forced[i]:
            continue  # late by itself
        chosen[i] = True
        ends_s += cost_s[i]
        value += worth[i]
        while ends_s > due_s[i]:
            longest = costliest(chosen & ~forced, cost_s, worth)
            if longest < 0:
                value -= worth[i]
                break
            chosen[longest] = False
            ends_s -= cost_s[longest]
            value -= worth[longest]
    return value


@compiled
def costliest(among: Bools, cost_s: Floats, worth: Floats) -> int:
    """Which of them takes longest for its worth; -1 for none."""
    longest = -1
    for j in range(len(among)):
        if among[j] and (longest < 0 or cost_s[j] * worth[longest] > cost_s[longest] * worth[j]):
            longest = j
    return longest
