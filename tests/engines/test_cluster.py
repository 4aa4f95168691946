"""Virtual time: whole systems, from offered requests to the time of every token."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import msgspec
import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import Cluster, Run, simulate
from slosgate.engines.sim.policies.sarathi import SarathiPolicy
from slosgate.engines.sim.policies.vllm import VllmPolicy
from slosgate.engines.sim.policies.vllm_v0 import VllmV0Policy
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.systems import Call, Offered, Settings, StageJob
from slosgate.engines.sim.systems.base import Delays
from slosgate.planner.profile import HardwareProfile

H200 = profiles.load("h200-opt-13b")


def stage(prompt: int, output: int, **more: float) -> Call:
    return msgspec.convert({"prompt_tokens": prompt, "output_tokens": output, **more}, Call)


def poisson(count: int, rate: float, seed: int = 0, *, ttft_slo_s: float = 0.4) -> list[Offered]:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    return [
        Offered(
            id=f"r{n}",
            arrival_s=float(arrival_s),
            calls=(
                stage(int(rng.integers(50, 1500)), int(rng.integers(1, 60)), ttft_slo_s=ttft_slo_s, tpot_slo_s=0.05),
            ),
        )
        for n, arrival_s in enumerate(arrivals)
    ]


def serve(name: str, requests: list[Offered], **settings: object) -> Run:
    return simulate(systems.load(name)(Settings(H200, delays=Delays(0.0, 0.0, 0.0), **settings)), requests)  # type: ignore[arg-type]


SPECULATING = [name for name in systems.names() if name.startswith("slosgate") and name != "slosgate-ar"]


@pytest.mark.parametrize("system", sorted({*systems.names()} - {*SPECULATING, "slosgate-ar"}))
def test_an_idle_replica_answers_in_the_zero_load_ttft(system: str) -> None:
    one = [Offered(id="a", arrival_s=1.0, calls=(stage(1000, 3),))]
    job = serve(system, one, replicas=2, budget=1024, link_bytes_per_s=math.inf).jobs[0]
    pause_s = H200.decide_s if system == "vllm-v0" else 0.0  # the others choose while the iteration before runs
    assert job.token_s[0] - 1.0 == pytest.approx(H200.zero_load_ttft_s(1000))
    steps_s = [pause_s + H200.perf.iteration_s(1, n, 1) for n in (1001, 1002)]
    assert np.diff(job.token_s).tolist() == pytest.approx(steps_s)


def test_an_idle_replica_that_plans_breaks_a_prompt_up_for_whoever_arrives_next() -> None:
    long = [Offered(id="a", arrival_s=1.0, calls=(stage(1000, 3),))]
    ttft_s = serve("slosgate-ar", long).jobs[0].token_s[0] - 1.0
    assert H200.zero_load_ttft_s(1000) < ttft_s < 1.15 * H200.zero_load_ttft_s(1000)
    short = Offered(id="b", arrival_s=1.01, calls=(stage(100, 3, ttft_slo_s=0.06),))
    assert serve("slosgate-ar", [*long, short]).jobs[1].token_s[0] - 1.01 < 0.06


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
    first, second = serve(system, [Offered(id="loop", arrival_s=0.0, calls=stages)], replicas=2).jobs
    assert second.arrival_s == pytest.approx(first.token_s[-1] + 0.5)
    assert second.replica == first.replica
    # 819 tokens were computed, 816 of them in whole blocks.
    expected_s = H200.request_overhead_s + H200.perf.iteration_s(103, 919, 1)
    assert second.token_s[0] - second.arrival_s == pytest.approx(expected_s)


def one_by_one(replica: SimReplica, requests: list[Offered]) -> list[list[float]]:
    """Token times of single-stage requests, iteration by iteration."""
    waiting = [StageJob(request, 0) for request in requests]
    names: dict[int, str] = {}
    times: dict[str, list[float]] = {job.id: [] for job in waiting}
    now_s = 0.0
    while waiting or names:
        while waiting and waiting[0].request.arrival_s <= now_s:
            job = waiting.pop(0)
            names[replica.submit(job.engine_request(), job.request.arrival_s)] = job.id
        iteration = replica.start(now_s)
        if iteration is None:
            now_s = waiting[0].request.arrival_s
            continue
        now_s = iteration.end_s
        outcome = replica.finish()
        for slot, emitted in zip(outcome.slots.tolist(), outcome.emitted.tolist(), strict=True):
            times[names[slot]] += [now_s] * emitted
        for slot in outcome.done.tolist():
            del names[slot]
    return list(times.values())


@pytest.mark.parametrize("drafts", [0, 3])
@pytest.mark.parametrize(
    ("system", "policy"), [("vllm", VllmPolicy), ("vllm-v0", VllmV0Policy), ("sarathi", SarathiPolicy)]
)
def test_iterations_that_repeat_are_run_at_once_with_the_same_result(
    system: str, policy: type[VllmPolicy], drafts: int
) -> None:
    # Little memory: some are preempted.
    profile = msgspec.structs.replace(H200, kv_blocks=80, request_overhead_s=0.0, decide_s=0.0)
    rng = np.random.default_rng(1)
    stages = [stage(int(rng.integers(30, 200)), int(rng.integers(1, 150))) for _ in range(40)]
    requests = [Offered(id=f"r{n}", arrival_s=0.03 * n, calls=(one,), acceptance=0.6) for n, one in enumerate(stages)]
    built = systems.load(system)(Settings(profile, async_scheduling=False, budget=700, drafts=drafts))
    run = simulate(built, requests)
    stepped = SimReplica(profile, partial(policy, budget=700, drafts=drafts))
    assert [job.token_s.tolist() for job in run.jobs] == one_by_one(stepped, requests)
    assert run.replicas[0].preemptions == stepped.state.preemptions > 0
    counters = run.replicas[0].counters
    assert counters.busy_s == pytest.approx(stepped.counters.busy_s)
    assert (counters.iterations, counters.output_tokens) == (
        stepped.counters.iterations,
        stepped.counters.output_tokens,
    )


@pytest.mark.parametrize("ttft_slo_s", [0.4, 0.05], ids=["patient", "hasty"])
def test_planned_iterations_are_run_at_once_with_the_same_result(ttft_slo_s: float) -> None:
    profile = msgspec.structs.replace(H200, kv_blocks=400)
    requests = [dataclasses.replace(request, acceptance=0.6) for request in poisson(60, 6.0, ttft_slo_s=ttft_slo_s)]

    def tokens(interruptions: int) -> list[list[float]]:
        cluster = Cluster(systems.load("slosgate")(Settings(profile)), requests)
        for n in range(interruptions):
            # Iterations take longer than that, so none runs at once with another.
            cluster.at(0.003 * n, lambda now_s: None)
        return [job.token_s.tolist() for job in cluster.run(math.inf).jobs]

    assert tokens(0) == tokens(6000)


@pytest.mark.parametrize("system", ["vllm", "distserve", "slosgate", "slosgate-no-routing"])
def test_replicas_that_do_not_wait_for_each_other_still_meet_in_time(system: str) -> None:
    loops = [
        Offered(
            id=request.id,
            arrival_s=request.arrival_s,
            calls=(*request.calls, stage(40, 30, cached_tokens=64, ttft_slo_s=0.1, tpot_slo_s=0.05))[n % 2 :],
            acceptance=0.6,
        )
        for n, request in enumerate(poisson(60, 12.0))
    ]

    def run(interruptions: int) -> list[tuple[int, list[float]]]:
        cluster = Cluster(systems.load(system)(Settings(H200, replicas=3)), loops)
        for n in range(interruptions):
            cluster.at(0.003 * n, lambda now_s: None)  # every replica waits for it
        return [(job.replica, job.token_s.tolist()) for job in cluster.run(math.inf).jobs]

    assert run(0) == run(3000)


def test_a_system_drafts_no_more_than_its_hardware_verifies() -> None:
    with pytest.raises(ValueError, match="h200-opt-13b verifies 6 drafts at most, not 7"):
        Settings(H200, drafts=7)


def test_prefill_first_makes_decodes_wait_and_chunks_do_not() -> None:
    requests = [
        Offered(id="a", arrival_s=0.0, calls=(stage(50, 40),)),
        Offered(id="b", arrival_s=0.2, calls=(stage(2000, 2),)),
    ]
    longest = {
        system: np.diff(serve(system, requests, budget=256).jobs[0].token_s).max() for system in ("vllm-v0", "sarathi")
    }
    assert longest["vllm-v0"] >= H200.perf.iteration_s(2000, 2000, 1)
    assert longest["sarathi"] <= H200.perf.iteration_s(256, 2200, 2)


def test_distserve_prefills_here_and_decodes_there_once_the_kv_has_travelled() -> None:
    request = Offered(id="a", arrival_s=0.0, calls=(stage(1000, 3),))
    run = serve("distserve", [request], replicas=2, link_bytes_per_s=10e9)
    first, second, _ = run.jobs[0].token_s
    assert first == pytest.approx(H200.zero_load_ttft_s(1000))
    travels_s = 1000 * H200.kv_bytes_per_token / 10e9
    assert second - first == pytest.approx(travels_s + H200.perf.iteration_s(1, 1001, 1))
    assert [record.counters.output_tokens for record in run.replicas] == [1, 2]


@pytest.mark.parametrize("prefills", [0, 2])
def test_distserve_needs_both_kinds_of_replica(prefills: int) -> None:
    with pytest.raises(ValueError, match=f"not {prefills} of 2"):
        systems.load("distserve")(Settings(H200, replicas=2, prefill_replicas=prefills))


def test_distserve_swaps_when_a_decode_replica_is_full() -> None:
    profile = msgspec.structs.replace(H200, kv_blocks=40)
    requests = [Offered(id=f"r{n}", arrival_s=0.0, calls=(stage(150, 100),)) for n in range(4)]
    run = simulate(systems.load("distserve")(Settings(profile, replicas=2)), requests)
    assert run.replicas[1].preemptions > 0
    assert [job.emitted for job in run.jobs] == [100] * 4
    assert run.replicas[0].counters.prompt_tokens == 600  # nothing was computed again
    assert run.replicas[1].counters.prompt_tokens == 0


def test_speculation_is_learnt_and_makes_a_lonely_request_faster() -> None:
    def seconds(acceptance: float) -> float:
        slos = {"ttft_slo_s": 0.4, "tpot_slo_s": 0.05}
        request = Offered(id="a", arrival_s=0.0, calls=(stage(100, 400, **slos),) * 2, acceptance=acceptance)
        return float(serve("slosgate", [request]).jobs[1].token_s[-1])

    assert seconds(0.9) < 0.7 * seconds(0.0)


def test_nobody_knows_beforehand_when_thinking_ends() -> None:
    think = stage(100, 60, ttft_slo_s=0.1, tpot_slo_s=0.02, switch_at=30, next_tpot_slo_s=0.1)
    tight = stage(100, 60, ttft_slo_s=0.1, tpot_slo_s=0.02)
    for name in systems.names():
        run = serve(name, [Offered(id="a", arrival_s=0.0, calls=(think,))], replicas=2)
        assert len(run.jobs[0].token_s) == 60
    thinking, answering = (serve("slosgate-ar", competing(one)).jobs[0].token_s for one in (think, tight))
    assert thinking[:30].tolist() == answering[:30].tolist()
    assert thinking[-1] > answering[-1]  # once it is seen to have ended, the answer's own pace holds


def competing(one: Call) -> list[Offered]:
    """A request, and prefills that want all the time that it leaves."""
    others = (stage(1800, 1, ttft_slo_s=2.0, tpot_slo_s=1.0),)
    more = [Offered(id=f"b{n}", arrival_s=0.08 * n, calls=others) for n in range(40)]
    return [Offered(id="a", arrival_s=0.0, calls=(one,)), *more]


@pytest.mark.parametrize("ablation", SPECULATING[1:])
def test_an_ablation_changes_what_happens(ablation: str) -> None:
    burst = poisson(150, 120.0)
    times = [serve(name, burst, replicas=2).jobs for name in ("slosgate", ablation)]
    assert [job.admission for job in times[0]] != [job.admission for job in times[1]] or [
        job.token_s.tolist() for job in times[0]
    ] != [job.token_s.tolist() for job in times[1]]


def test_planning_keeps_slos_that_first_come_first_served_breaks() -> None:
    def kept(run: Run) -> int:
        return sum(job.token_s[0] - job.arrival_s <= job.stage.ttft_slo_s for job in run.jobs)

    burst = poisson(150, 32.0)
    assert kept(serve("slosgate-ar", burst)) > 1.3 * kept(serve("vllm", burst))


def test_who_comes_while_an_iteration_runs_waits_for_that_one_alone() -> None:
    def kept(profile: HardwareProfile) -> int:
        talkers = [Offered(id=f"t{n}", arrival_s=0.0, calls=(stage(500, 400, tpot_slo_s=0.1),)) for n in range(60)]
        rng = np.random.default_rng(0)
        hasty = [
            Offered(id=f"h{n}", arrival_s=float(at_s), calls=(stage(10, 2, ttft_slo_s=0.035, tpot_slo_s=0.1),))
            for n, at_s in enumerate(np.sort(rng.uniform(1.0, 4.0, 40)))
        ]
        run = simulate(systems.load("slosgate-ar")(Settings(profile)), [*talkers, *hasty])
        return sum(job.token_s[0] - job.arrival_s <= 0.035 for job in run.jobs if job.id.startswith("h"))

    # As soon as an iteration begins, and without waiting for anybody: a pause of a second would never pay.
    at_once = msgspec.structs.replace(H200, lead_s=1.0, decide_s=1.0)
    assert kept(H200) > 2 * kept(at_once)


def test_best_effort_is_served_and_counted() -> None:
    tight = stage(1000, 30, ttft_slo_s=0.2, tpot_slo_s=0.05)
    requests = [Offered(id=f"r{n}", arrival_s=0.0, calls=(tight,)) for n in range(12)]
    run = serve("slosgate-ar", requests)
    effort = [job for job in run.jobs if job.admission == "best-effort"]
    assert 0 < len(effort) < 12
    assert all(job.finished for job in run.jobs)
    assert run.replicas[0].best_effort_tokens == 30 * len(effort)


def test_a_run_can_be_cut_short() -> None:
    requests = [Offered(id="a", arrival_s=0.0, calls=(stage(10, 500), stage(10, 5)))]
    run = simulate(systems.load("vllm")(Settings(H200)), requests, until_s=1.0)
    assert not run.jobs[0].finished
    assert 50 < len(run.jobs[0].token_s) < 500
    assert math.isnan(run.jobs[1].arrival_s)


def test_systems_are_told_apart_by_name() -> None:
    with pytest.raises(systems.UnknownSystem, match="slosgate-ar"):
        systems.load("magic")
