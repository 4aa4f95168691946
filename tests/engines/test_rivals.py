"""Rivals: what each does that another doesn't, on one replica or behind its router."""

from __future__ import annotations

import numpy as np
import pytest

from slosgate.bench import tuning
from slosgate.engines import profiles
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings, StageJob

A100 = profiles.load("a100-opt-13b")
ONE_REPLICA = ("edf", "qoserve", "scorpio", "jitserve")


def request(
    name: str, at_s: float, prompt: int, output: int, ttft_s: float, tpot_s: float, *, acceptance: float = 0.0
) -> Offered:
    call = Call(prompt_tokens=prompt, output_tokens=output, ttft_slo_s=ttft_s, tpot_slo_s=tpot_s)
    return Offered(at_s, (call,), id=name, acceptance=acceptance)


def serve(system: str, requests: list[Offered], **settings: object) -> dict[str, StageJob]:
    run = simulate(systems.load(system)(Settings(A100, **settings)), requests)  # type: ignore[arg-type]
    return {job.id: job for job in run.jobs}


def in_time(job: StageJob) -> bool:
    return bool(job.token_s[0] - job.arrival_s <= 1.05 * job.stage.ttft_slo_s)


def firsts(jobs: dict[str, StageJob]) -> list[str]:
    """Names in the order of their first tokens."""
    return sorted(jobs, key=lambda name: float(jobs[name].token_s[0]))


@pytest.mark.parametrize("system", ONE_REPLICA)
def test_the_longest_prompt_is_relegated_so_that_the_others_are_in_time(system: str) -> None:
    burst = [request("long", 0.0, 2000, 2, 0.4, 0.1)]
    burst += [request(f"short{n}", 0.001 * n, 300, 2, 0.45, 0.1) for n in range(6)]
    jobs = serve(system, burst)
    assert [name for name, job in jobs.items() if not in_time(job)] == ["long"]
    assert jobs["long"].finished


@pytest.mark.parametrize("system", ONE_REPLICA)
def test_a_chunk_ends_before_the_first_decode_is_due(system: str) -> None:
    talker = request("talker", 0.0, 50, 60, 1.0, 0.05)
    jobs = serve(system, [talker, request("prompt", 1.2, 2000, 2, 5.0, 0.1)])
    due_s = 1.0 + 0.05 * np.arange(60)
    assert (jobs["talker"].token_s <= due_s + 1e-9).all()


@pytest.mark.parametrize("system", ONE_REPLICA)
def test_an_iteration_ends_by_the_deadline_of_the_prompt_that_it_completes(system: str) -> None:
    hasty = A100.zero_load_ttft_s(100) * 1.6
    jobs = serve(system, [request("hasty", 0.0, 100, 2, hasty, 0.1), request("patient", 0.0, 1500, 2, 3.0, 0.1)])
    assert in_time(jobs["hasty"])
    assert in_time(jobs["patient"])


def test_edf_goes_by_deadline_and_qoserve_by_work_too() -> None:
    queue = [request("first", 0.0, 1200, 2, 9.0, 0.1), request("long", 0.01, 1900, 2, 3.0, 0.1)]
    queue += [request("short", 0.01, 100, 2, 3.2, 0.1)]
    assert firsts(serve("edf", queue, budget=1200)) == ["long", "short", "first"]
    assert firsts(serve("qoserve", queue, budget=1200)) == ["short", "first", "long"]  # little is left of the first


def test_edf_lets_decodes_that_are_ahead_wait_for_an_urgent_prompt_while_memory_is_free() -> None:
    talkers = [request(f"t{n}", 0.0, 400, 200, 2.0, 0.1) for n in range(20)]
    urgent = request("urgent", 4.0, 1000, 2, A100.zero_load_ttft_s(1000) * 1.15, 0.1)
    waits = serve("edf", [*talkers, urgent], defer_below=1.0)
    runs = serve("edf", [*talkers, urgent])
    assert waits["urgent"].token_s[0] < runs["urgent"].token_s[0]
    assert all(in_time(job) for job in waits.values())


def test_scorpio_lets_loose_decodes_skip_iterations_and_edf_does_not() -> None:
    pair = [request("tight", 0.0, 100, 80, 1.0, 0.03), request("loose", 0.0, 100, 80, 1.0, 0.12)]
    scorpio, edf = serve("scorpio", pair), serve("edf", pair)
    assert scorpio["loose"].token_s[40] > scorpio["tight"].token_s[40] + 0.5
    assert edf["loose"].token_s[40] == pytest.approx(edf["tight"].token_s[40], abs=0.05)


def test_scorpio_refuses_a_prompt_whose_decode_would_break_the_tightest_pace() -> None:
    talker = request("talker", 0.0, 400, 100, 1.0, A100.perf.iteration_s(1, 500, 1) * 1.001)
    others = [request("heavy", 1.0, 1900, 50, 5.0, 0.2), request("light", 1.0, 50, 50, 6.0, 0.2)]
    assert firsts(serve("edf", [talker, *others], budget=1000)) == ["talker", "heavy", "light"]
    assert firsts(serve("scorpio", [talker, *others], budget=1000)) == ["talker", "light", "heavy"]


def test_jitserve_goes_by_gain_for_the_time_left() -> None:
    queue = [request("first", 0.0, 1200, 2, 9.0, 0.1), request("poor", 0.01, 1000, 2, 2.0, 0.1)]
    queue += [request("rich", 0.01, 1500, 2, 2.1, 0.1)]
    assert firsts(serve("edf", queue, budget=1200))[0] == "poor"
    assert firsts(serve("jitserve", queue, budget=1200))[0] == "rich"


def test_least_work_spares_the_replica_with_a_queue() -> None:
    queue = [request("big", 0.0, 2000, 2, 9.0, 0.1), request("small", 0.0, 50, 2, 9.0, 0.1)]
    queue += [request("next", 0.01, 500, 2, 9.0, 0.1)]
    assert serve("edf", queue, replicas=2)["next"].replica == 0  # its turn
    assert serve("edf-least-work", queue, replicas=2)["next"].replica == 1


def test_polyserve_keeps_tiers_apart_and_fills_one_replica_first() -> None:
    talkers = [request(f"l{n}", 0.3 * n, 100, 100, 2.0, 0.1) for n in range(3)]
    talkers += [request(f"t{n}", 1.0 + 0.3 * n, 100, 100, 2.0, 0.05) for n in range(3)]
    jobs = serve("polyserve", talkers, replicas=3)
    where = {name: job.replica for name, job in jobs.items()}
    assert len({where[f"l{n}"] for n in range(3)}) == 1
    assert len({where[f"t{n}"] for n in range(3)}) == 1
    assert where["l0"] != where["t0"]


@pytest.mark.parametrize("system", tuning.RIVALS)
def test_a_speculating_rival_drafts_as_many_tokens_as_it_is_told(system: str) -> None:
    talker = request("talker", 0.0, 100, 100, 1.0, 0.1, acceptance=0.9)
    plain, drafting = serve(system, [talker])["talker"], serve(system, [talker], drafts=2)["talker"]
    assert drafting.token_s[-1] < 0.7 * plain.token_s[-1]


def test_every_rival_has_a_speculating_variant_and_knobs_to_tune() -> None:
    for name in (*tuning.RIVALS, *tuning.ROUTED_RIVALS):
        assert {name, name + "+sd"} <= {*tuning.names()}
        assert len(tuning.settings(name)) > 1
        assert all(tuned.drafts for _, tuned in tuning.settings(name + "+sd"))
