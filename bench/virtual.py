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
    UNSAID,
    Floats,
    RequestOutcome,
    attained,
    collect,
    judged,
)
from slosgate.bench.load import Call, Load, Offered, unserved
from slosgate.bench.results import Row
from slosgate.engines.sim.cluster import Run, Watch
from slosgate.engines.sim.cluster import simulate as simulate_cluster
from slosgate.engines.sim.systems import Settings, SimRequest, SimStage, StageJob
from slosgate.planner.profile import HardwareProfile

DRAIN_S = 300.0  # what has not ended so long after the last arrival counts as unfinished
LOOKS = 16  # at the misses so far, while requests arrive


@dataclass(frozen=True, slots=True)
class Setup:
    """How many replicas serve, and what a baseline is tuned by."""

    replicas: int = 1
    seed: int = 0
    acceptance: float = 0.0  # chance that a drafted token is accepted
    budget: int | None = None  # tokens an iteration may take
    drafts: int = 0
    defer_below: float = 0.0  # of rivals: share of the KV memory
    prefill_replicas: int | None = None  # of `replicas`, where prefill and decode are apart
    ahead: bool = True  # iterations are chosen while the one before runs (asynchronous scheduling)


ONE_REPLICA = Setup()


@dataclass(frozen=True, slots=True)
class VirtualRun:
    outcomes: list[RequestOutcome]
    replicas: Row  # what the replicas did, in all
    missed: int | None = None  # where the run was abandoned: requests that had missed for certain by then


def simulate(
    load: Load,
    system: str,
    profile: HardwareProfile,
    setup: Setup = ONE_REPLICA,
    *,
    misses_allowed: int | None = None,
    worth: Sequence[float] = (),
) -> VirtualRun:
    """Serve a load in virtual time. The same arguments give the same result. Raises systems.UnknownSystem.

    Abandons the run once more than `misses_allowed` requests have missed by the paper's rule for certain.
    `worth` is the weight of each request, 1 where there are none.
    """
    built = tuning.factory(system)(
        Settings(
            profile=profile,
            replicas=setup.replicas,
            seed=setup.seed,
            budget=setup.budget,
            drafts=setup.drafts,
            defer_below=setup.defer_below,
            prefill_replicas=setup.prefill_replicas,
            async_scheduling=setup.ahead,
        )
    )
    weights = worth if len(worth) else np.ones(len(load.requests))
    offered = [
        _request(n, r, setup.acceptance, float(weight))
        for n, (r, weight) in enumerate(zip(load.requests, weights, strict=True))
    ]
    misses = _Misses(load, misses_allowed) if misses_allowed is not None else None
    watch = Watch(load.seconds / LOOKS, misses.too_many) if misses else None
    run = simulate_cluster(built, offered, until_s=load.seconds + DRAIN_S, watch=watch)
    jobs = iter(run.jobs)
    outcomes = [_outcome(r, jobs) for r in load.requests]
    return VirtualRun(outcomes, _replicas(run), misses.missed if misses and run.stopped else None)


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


def _request(number: int, request: Offered, acceptance: float, weight: float) -> SimRequest:
    return SimRequest(
        id=f"r{number}",
        arrival_s=request.arrival_s,
        stages=tuple(_stage(call) for call in request.calls),
        slo_class=request.slo_class,
        acceptance=acceptance,
        weight=weight,
    )


def _stage(call: Call) -> SimStage:
    return SimStage(
        prompt_tokens=call.prompt_tokens,
        output_tokens=call.output_tokens,
        cached_tokens=call.cached_tokens,
        ttft_slo_s=call.ttft_slo_s,
        tpot_slo_s=call.tpot_slo_s,
        gap_s=call.gap_s,
        switch_at=call.switch_at,
        next_tpot_slo_s=call.next_tpot_slo_s,
    )


def _outcome(request: Offered, jobs: Iterator[StageJob]) -> RequestOutcome:
    """Takes the request's jobs from the run's, which stand in the same order."""
    outcome, admissions, told_after_s = unserved(request), set(), 0.0
    for stage, job in zip(outcome.stages, jobs, strict=False):  # in this order zip takes no job too many
        stage.arrival_s, stage.token_s = job.arrival_s, job.token_s
        admissions.add(job.admission)
        told_after_s = max(told_after_s, _told_after_s(job))
    outcome.told_after_s = told_after_s
    admissions.discard(UNSAID)
    outcome.admission = BEST_EFFORT if BEST_EFFORT in admissions else next(iter(admissions), UNSAID)
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
