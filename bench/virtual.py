"""A load served in virtual time: the same planner and schedulers as live, on replicas simulated from a profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench import tuning
from bench.attainment import BEST_EFFORT, UNSAID, RequestOutcome
from bench.load import Call, Load, Offered, unserved
from bench.results import Row
from engines.sim import systems
from engines.sim.cluster import Run
from engines.sim.cluster import simulate as simulate_cluster
from engines.sim.systems import Settings, SimRequest, SimStage, StageJob
from planner.profile import HardwareProfile

DRAIN_S = 300.0  # what has not ended so long after the last arrival counts as unfinished


@dataclass(frozen=True, slots=True)
class VirtualRun:
    outcomes: list[RequestOutcome]
    replicas: Row  # what the replicas did, in all


def simulate(
    load: Load,
    system: str,
    profile: HardwareProfile,
    *,
    replicas: int = 1,
    seed: int = 0,
    acceptance: float = 0.0,
    budget: int | None = None,
    drafts: int = 0,
    prefill_replicas: int | None = None,
    ahead: bool = True,
) -> VirtualRun:
    """Serve a load on so many replicas. The same arguments give the same result. Raises systems.UnknownSystem."""
    settings = Settings(
        profile=profile, replicas=replicas, seed=seed, budget=budget, drafts=drafts, prefill_replicas=prefill_replicas,
        async_scheduling=ahead,
    )  # fmt: skip
    built = systems.load(tuning.base(system))(settings)
    offered = [_request(n, r, acceptance) for n, r in enumerate(load.requests)]
    run = simulate_cluster(built, offered, until_s=load.seconds + DRAIN_S)
    jobs = iter(run.jobs)
    outcomes = [_outcome(r, jobs) for r in load.requests]
    return VirtualRun(outcomes, _replicas(run))


def _request(number: int, request: Offered, acceptance: float) -> SimRequest:
    return SimRequest(
        id=f"r{number}",
        arrival_s=request.arrival_s,
        stages=tuple(_stage(call) for call in request.calls),
        slo_class=request.slo_class,
        acceptance=acceptance,
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
    outcome, admissions = unserved(request), set()
    for stage, job in zip(outcome.stages, jobs, strict=False):  # in this order zip takes no job too many
        stage.arrival_s, stage.token_s = job.arrival_s, job.token_s
        admissions.add(job.admission)
    admissions.discard(UNSAID)
    outcome.admission = BEST_EFFORT if BEST_EFFORT in admissions else next(iter(admissions), UNSAID)
    return outcome


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
