"""Virtual time: whole systems, from offered requests to the time of every token."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from engines import profiles
from engines.sim import systems
from engines.sim.cluster import Run, simulate
from engines.sim.systems import Settings, SimRequest, SimStage

H200 = profiles.load("h200-opt-13b")


def stage(prompt: int, output: int, **more: float) -> SimStage:
    return msgspec.convert({"prompt_tokens": prompt, "output_tokens": output, **more}, SimStage)


def poisson(count: int, rate: float, seed: int = 0) -> list[SimRequest]:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    return [
        SimRequest(
            id=f"r{n}",
            arrival_s=float(arrival_s),
            stages=(stage(int(rng.integers(50, 1500)), int(rng.integers(1, 60)), ttft_slo_s=0.4, tpot_slo_s=0.05),),
        )
        for n, arrival_s in enumerate(arrivals)
    ]


def serve(name: str, requests: list[SimRequest], **settings: object) -> Run:
    return simulate(systems.load(name)(Settings(H200, **settings)), requests)  # type: ignore[arg-type]


SPECULATING = [name for name in systems.names() if name.startswith("slos-serve") and name != "slos-serve-ar"]


@pytest.mark.parametrize("system", sorted({*systems.names()} - {*SPECULATING}))
def test_an_idle_replica_answers_in_the_zero_load_ttft(system: str) -> None:
    one = [SimRequest(id="a", arrival_s=1.0, stages=(stage(1000, 3),))]
    job = serve(system, one, replicas=2, budget=1024, link_bytes_per_s=math.inf).jobs[0]
    assert job.token_s[0] - 1.0 == pytest.approx(H200.zero_load_ttft_s(1000))
    assert np.diff(job.token_s).tolist() == pytest.approx([H200.perf.iteration_s(1, n, 1) for n in (1001, 1002)])


@pytest.mark.parametrize("system", systems.names())
def test_the_same_seed_gives_the_same_run(system: str) -> None:
    runs = [serve(system, poisson(60, 8.0), replicas=2, seed=7, noise=0.05) for _ in range(2)]
    times = [np.concatenate([job.token_s for job in run.jobs]) for run in runs]
    assert times[0].tolist() == times[1].tolist()
    assert all(job.finished for job in runs[0].jobs)
    other = serve(system, poisson(60, 8.0), replicas=2, seed=8, noise=0.05)
    assert np.concatenate([job.token_s for job in other.jobs]).tolist() != times[0].tolist()


@pytest.mark.parametrize("system", systems.names())
def test_every_token_is_emitted_once_and_in_order(system: str) -> None:
    run = serve(system, poisson(80, 20.0), replicas=2)
    for job in run.jobs:
        assert len(job.token_s) == job.stage.output_tokens
        assert job.token_s[0] > job.arrival_s
        assert (np.diff(job.token_s) > 0).all()
    assert sum(record.counters.output_tokens for record in run.replicas) == sum(len(job.token_s) for job in run.jobs)


def test_round_robin_takes_turns() -> None:
    run = serve("vllm", poisson(6, 5.0), replicas=3)
    assert [job.replica for job in run.jobs] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("system", sorted({*systems.names()} - {"distserve"}))
def test_a_stage_arrives_after_the_one_before_and_finds_its_prefix(system: str) -> None:
    stages = (stage(800, 20, gap_s=0.5), stage(100, 20, cached_tokens=819))
    first, second = serve(system, [SimRequest(id="loop", arrival_s=0.0, stages=stages)], replicas=2).jobs
    assert second.arrival_s == pytest.approx(first.token_s[-1] + 0.5)
    assert second.replica == first.replica
    # 819 tokens were computed, 816 of them in whole blocks.
    expected_s = H200.request_overhead_s + H200.perf.iteration_s(103, 919, 1)
    assert second.token_s[0] - second.arrival_s == pytest.approx(expected_s)


def test_planning_keeps_slos_that_first_come_first_served_breaks() -> None:
    def kept(run: Run) -> int:
        return sum(job.token_s[0] - job.arrival_s <= job.stage.ttft_slo_s for job in run.jobs)

    burst = poisson(150, 32.0)
    assert kept(serve("slos-serve-ar", burst)) > 1.3 * kept(serve("vllm", burst))


def test_best_effort_is_served_and_counted() -> None:
    tight = stage(1000, 30, ttft_slo_s=0.2, tpot_slo_s=0.05)
    requests = [SimRequest(id=f"r{n}", arrival_s=0.0, stages=(tight,)) for n in range(12)]
    run = serve("slos-serve-ar", requests)
    effort = [job for job in run.jobs if job.admission == "best-effort"]
    assert 0 < len(effort) < 12
    assert all(job.finished for job in run.jobs)
    assert run.replicas[0].best_effort_tokens == 30 * len(effort)


def test_a_run_can_be_cut_short() -> None:
    requests = [SimRequest(id="a", arrival_s=0.0, stages=(stage(10, 500), stage(10, 5)))]
    run = simulate(systems.load("vllm")(Settings(H200)), requests, until_s=1.0)
    assert not run.jobs[0].finished
    assert 50 < len(run.jobs[0].token_s) < 500
    assert math.isnan(run.jobs[1].arrival_s)


def test_systems_are_told_apart_by_name() -> None:
    with pytest.raises(systems.UnknownSystem, match="slos-serve-ar"):
        systems.load("magic")
