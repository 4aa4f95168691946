"""A replica that is slower than its profile says: it learns so, and what is promised there is kept."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.calibrating import Calibrator
from slosgate.engines.messages import IterationReport
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import Run, simulate
from slosgate.engines.sim.realtime import faster
from slosgate.engines.sim.systems import Call, Offered, Settings, StageJob
from slosgate.planner.perf_model import pairs_of
from slosgate.planner.profile import HardwareProfile

SLOWDOWN = 1.2
A100 = profiles.load("a100-opt-13b")
SLOW = faster(A100, 1 / SLOWDOWN)
SECONDS, LEARNED_S = 60.0, 10.0


def offered(rate_rps: float) -> list[Offered]:
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, int(SECONDS * rate_rps)))
    return [
        Offered(id=f"r{n}", arrival_s=float(at_s), calls=(_stage(rng),), slo_class="only")
        for n, at_s in enumerate(arrivals)
    ]


def _stage(rng: np.random.Generator) -> Call:
    prompt = int(rng.integers(100, 1200))
    return Call(
        prompt_tokens=prompt, output_tokens=int(rng.integers(20, 120)),
        ttft_slo_s=5 * A100.zero_load_ttft_s(prompt), tpot_slo_s=0.1,
    )  # fmt: skip


def serve(profile: HardwareProfile, slowdown: float, rate_rps: float) -> Run:
    return simulate(systems.load("slosgate-ar")(Settings(profile, slowdown=slowdown)), offered(rate_rps))


def attained(job: StageJob) -> bool:
    if not len(job.token_s):
        return False
    due_s = max(job.arrival_s + job.stage.ttft_slo_s, float(job.token_s[0]))
    late_s = job.token_s - due_s - 1.05 * job.stage.tpot_slo_s * np.arange(len(job.token_s))
    return bool(job.token_s[0] - job.arrival_s <= 1.05 * job.stage.ttft_slo_s and late_s.max() <= 1e-9)


@lru_cache
def own_capacity_rps() -> float:
    """The highest rate at which the slower replica, with a profile that is true of it, attains nine of ten."""
    best = 0.0
    for rate_rps in (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0):
        if np.mean([attained(job) for job in serve(SLOW, 1.0, rate_rps).jobs]) < 0.9:
            break
        best = rate_rps
    return best


def test_what_a_slower_replica_is_promised_to_do_is_kept_once_it_knows() -> None:
    rate_rps = 0.8 * own_capacity_rps()
    learning = simulate(
        systems.load("slosgate-ar")(Settings(A100, slowdown=SLOWDOWN)), offered(rate_rps), until_s=LEARNED_S
    )
    assert learning.replicas[0].counters.iterations >= 200
    run = serve(A100, SLOWDOWN, rate_rps)
    promised = [job for job in run.jobs if job.admission == "guaranteed" and job.arrival_s > LEARNED_S]
    assert len(promised) > 0.8 * sum(job.arrival_s > LEARNED_S for job in run.jobs)
    assert np.mean([attained(job) for job in promised]) >= 0.98


@pytest.mark.parametrize("slowdown", [1.0, 1.2, 0.8])
def test_the_model_that_is_planned_with_comes_near_to_what_iterations_take(slowdown: float) -> None:
    system = systems.load("slosgate-ar")(Settings(A100, slowdown=slowdown))
    simulate(system, offered(2.0))
    report = system.replicas[0].telemetry("a", math.inf)
    learned = report.perf or A100.perf
    for size in ((8, 4000, 8), (600, 5000, 8, 0, 600 * 300.0)):
        assert learned.iteration_s(*size) == pytest.approx(slowdown * A100.perf.iteration_s(*size), rel=0.05)
    assert (report.perf is None) == (slowdown == 1.0)


def test_decodes_that_are_much_faster_than_the_profile_says_leave_prefills_as_they_are() -> None:
    profile = profiles.load("h200-llama-3.1-8b")
    learns, model, rng = Calibrator(profile.perf), profile.perf, np.random.default_rng(8)

    def ran(new: int, context: int, sequences: int, pairs: float) -> None:
        nonlocal model
        size = new, context, sequences, 0, pairs
        took_s = profile.perf.iteration_s(*size) * float(rng.normal(1.0, 0.02)) * (1.0 if pairs else 0.2)
        model = learns(IterationReport(took_s, *size)) or model

    for n in range(300):
        decodes = int(rng.integers(1, 12))
        if n % 6 == 0:
            new, before = int(rng.integers(64, 4096)), int(rng.integers(0, 100_000))
            ran(new + decodes, before + new + decodes * 40_000, 1 + decodes, pairs_of(before, new))
        else:
            ran(decodes, decodes * 40_000, decodes, 0.0)
    for tokens, before in ((500, 0), (8192, 90_000)):
        assert model.chunk_s(tokens, before) == pytest.approx(profile.perf.chunk_s(tokens, before), rel=0.08)
    decode = 8, 320_000, 8
    assert 1.0 <= model.iteration_s(*decode) / (0.2 * profile.perf.iteration_s(*decode)) < 1.15  # with its margin
