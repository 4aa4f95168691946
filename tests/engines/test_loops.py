"""Loops of calls under more load than a replica can take: those that began with promises come to their end."""

from __future__ import annotations

import numpy as np

from slosgate.engines import profiles
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings, StageJob
from slosgate.engines.sim.systems.base import GUARANTEED, Delays

H200 = profiles.load("h200-opt-13b")


def loops(count: int, rate_rps: float, seed: int) -> list[Offered]:
    """Four calls each, of which every one goes on from the one before."""
    rng = np.random.default_rng(seed)
    found = []
    for n, arrival_s in enumerate(np.cumsum(rng.exponential(1 / rate_rps, count)).tolist()):
        calls: list[Call] = []
        context = 0
        for longest in (700, 300, 300, 300):
            new, output = int(rng.integers(100, longest)), int(rng.integers(10, 60))
            calls.append(Call(new, output, ttft_slo_s=0.25, tpot_slo_s=0.05, cached_tokens=context))
            context += new + output
        found.append(Offered(id=f"r{n}", arrival_s=arrival_s, calls=tuple(calls)))
    return found


def served(requests: list[Offered]) -> list[list[StageJob]]:
    """The calls of each request, in turn."""
    settings = Settings(H200, delays=Delays(0.0, 0.0, 0.0))
    jobs = simulate(systems.load("slosgate-ar")(settings), requests).jobs
    return [[job for job in jobs if job.request.id == request.id] for request in requests]


def test_a_loop_that_began_with_promises_is_not_starved_half_way_by_newcomers() -> None:
    begun = lost = 0
    for seed in (0, 1):
        for calls in served(loops(150, 26.0, seed)):
            first, *others = [job.admission == GUARANTEED for job in calls]
            begun += first
            lost += first and not all(others)
    assert 150 < begun < 290  # newcomers enough are turned away
    assert lost <= 2  # without their weight: 7
