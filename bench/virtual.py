"""A load served in virtual time: the same planner and schedulers as live, on replicas simulated from a profile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slosgate.bench import tuning
from slosgate.bench.attainment import (
    BEST_EFFORT,
    GUARANTEED,
    PAPER,
    REJECTED,
    UNSAID,
    Floats,
    RequestOutcome,
    attained,
    collect,
    judged,
)
from slosgate.bench.load import Load, unserved
from slosgate.bench.results import Row
from slosgate.bench.summary import prompts
from slosgate.engines.sim.cluster import Run, Users, Watch
from slosgate.engines.sim.cluster import simulate as simulate_cluster
from slosgate.engines.sim.systems import Offered, Settings, StageJob
from slosgate.engines.sim.systems.base import REFUSED, System

DRAIN_S = 300.0  # what has not ended so long after the last arrival counts as unfinished
LOOKS = 16  # at the misses so far, while requests arrive


@dataclass(frozen=True, slots=True)
class VirtualRun:
    outcomes: list[RequestOutcome]
    replicas: Row  # what the replicas did, in all
    missed: int | None = None  # where the run was abandoned: requests that had missed for certain by then


def simulate(
    load: Load,
    system: str,
    settings: Settings,
    *,
    acceptance: float = 0.0,
    misses_allowed: int | None = None,
    worth: Sequence[float] = (),
) -> VirtualRun:
    """Serve a load in virtual time. The same arguments give the same result. Raises systems.UnknownSystem.

    `acceptance` is the chance that a drafted token is accepted, `worth` the weight of each request, 1 where there are
    none. Abandons the run once more than `misses_allowed` requests have missed by the paper's rule for certain.
    """
    return serve(
        load, tuning.factory(system)(settings), acceptance=acceptance, misses_allowed=misses_allowed, worth=worth
    )


def serve(
    load: Load,
    built: System,
    *,
    acceptance: float = 0.0,
    misses_allowed: int | None = None,
    worth: Sequence[float] = (),
) -> VirtualRun:
    """Serve a load by a system that has been built, and has served nothing yet."""
    weights = worth if len(worth) else np.ones(len(load.requests))
    offered = [
        dataclasses.replace(r, id=f"r{n}", acceptance=acceptance, weight=float(weight))
        for n, (r, weight) in enumerate(zip(load.requests, weights, strict=True))
    ]
    misses = _Misses(load, misses_allowed) if misses_allowed is not None else None
    watch = Watch(load.seconds / LOOKS, misses.too_many) if misses else None
    run = simulate_cluster(built, offered, until_s=load.seconds + _pauses_s(load) + DRAIN_S, watch=watch)
    jobs = iter(run.jobs)
    outcomes = [_outcome(r, jobs) for r in load.requests]
    return VirtualRun(outcomes, _replicas(run) | prompts(outcomes), misses.missed if misses and run.stopped else None)


def closed(
    load: Load, system: str, settings: Settings, users: Users, *, acceptance: float = 0.0
) -> tuple[Load, VirtualRun]:
    """Serve a load in a closed loop in virtual time: its requests in their order, from the start again where they don't
    last until `users.until_s`; without such a time, each of them once. The load is returned as it was offered."""
    times, bounded, ends_s = 1, math.isfinite(users.until_s), users.until_s + _pauses_s(load) + DRAIN_S
    while True:
        offered = [
            dataclasses.replace(r, id=f"r{n}", acceptance=acceptance) for n, r in enumerate(load.requests * times)
        ]
        built = tuning.factory(system)(settings)
        run = simulate_cluster(built, offered, until_s=ends_s, users=users)
        if not bounded or math.isnan(run.jobs[-len(offered[-1].calls)].arrival_s):
            break
        times *= 2
    jobs = iter(run.jobs)
    outcomes = [_outcome(r, jobs) for r in offered]
    came = [(r, o) for r, o in zip(offered, outcomes, strict=True) if not math.isnan(o.stages[0].arrival_s)]
    requests = tuple(dataclasses.replace(r, arrival_s=o.arrival_s) for r, o in came)
    seconds = users.until_s if bounded else run.end_s
    served = [outcome for _, outcome in came]
    return load.as_offered(requests, seconds), VirtualRun(served, _replicas(run) | prompts(served))


def _pauses_s(load: Load) -> float:
    """Of the request that pauses longest between its calls."""
    return max((sum(call.gap_s for call in r.calls) for r in load.requests), default=0.0)


class _Misses:
    """Counts the requests that have missed for certain, as if every late token came now and every other one in time."""

    def __init__(self, load: Load, allowed: int) -> None:
        unserved_yet = collect(unserved(r) for r in load.requests)
        tokens = unserved_yet.expected
        self._served = dataclasses.replace(unserved_yet, tokens=tokens, token_s=np.zeros(tokens.sum()))
        self._judged = judged(self._served, PAPER)
        self._allowed = allowed
        self.missed = 0

    def too_many(self, now_s: float, jobs: Sequence[StageJob], token_s: Floats) -> bool:
        arrival_s = np.array([job.arrival_s for job in jobs])
        came_s = token_s[self._judged]
        self._served.token_s[self._judged] = np.where(np.isnan(came_s), now_s, came_s)
        served = dataclasses.replace(self._served, arrival_s=np.where(np.isnan(arrival_s), np.inf, arrival_s))
        hopeful = attained(served, PAPER)
        self.missed = int(len(hopeful) - hopeful.sum())
        return self.missed > self._allowed


def _outcome(request: Offered, jobs: Iterator[StageJob]) -> RequestOutcome:
    """Takes the request's jobs from the run's, which stand in the same order."""
    outcome, admissions, told_after_s = unserved(request), {UNSAID}, 0.0
    for stage, job in zip(outcome.stages, jobs, strict=False):  # in this order zip takes no job too many
        stage.arrival_s, stage.token_s = job.arrival_s, job.token_s
        stage.admission = REJECTED if job.admission == REFUSED else job.admission
        stage.replica = f"replica-{job.replica}" if job.replica >= 0 else ""
        admissions.add(stage.admission)
        stage.cached_tokens = job.cached_tokens
        told_after_s = max(told_after_s, _told_after_s(job))
    outcome.arrival_s, outcome.told_after_s = outcome.stages[0].arrival_s, told_after_s
    outcome.admission = next(word for word in (REJECTED, BEST_EFFORT, GUARANTEED, UNSAID) if word in admissions)
    return outcome


def _told_after_s(job: StageJob) -> float:
    """How long after its arrival a stage was guaranteed; inf if it never was."""
    if job.admission != GUARANTEED:
        return math.inf
    return 0.0 if math.isnan(job.promoted_s) else job.promoted_s - job.arrival_s


def _replicas(run: Run) -> Row:
    counters = [r.counters for r in run.replicas]
    use = [share for r in run.replicas for _, share in r.kv_use]
    return {
        "iterations": sum(c.iterations for c in counters),
        "busy_s": round(sum(c.busy_s for c in counters), 3),
        "preemptions": sum(r.preemptions for r in run.replicas),
        "best_effort_tokens": sum(r.best_effort_tokens for r in run.replicas),
        "kv_use_mean": round(float(np.mean(use)), 4) if use else 0.0,
    }
