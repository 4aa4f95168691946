"""Promises made while iterations are chosen already that nobody can change any more: as on an H200, where launching a
prefill takes longer than an iteration of decodes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings, StageJob
from slosgate.planner.controller import place
from slosgate.planner.machine import delays_of
from slosgate.planner.profile import CAPTURED
from tests.planner.test_rehearsal import Replica, arrival

H200 = profiles.load("h200-llama-3.1-8b")
TTFT_S = 0.033  # what was three times the zero-load TTFT while launches did not count
STEP_S = H200.perf.iteration_s(10, 15_000, 10)
CONTEXT = 1500


def loops(seed: int) -> list[Offered]:
    """Answers that run all the while, and loops whose next call comes as soon as the last has ended."""
    rng = np.random.default_rng(seed)
    running = [Offered(0.05 * n, (Call(CONTEXT, 700, 2.0, 0.1),), "answer", f"answer-{n}") for n in range(8)]
    return running + [_loop(rng, f"loop-{n}", float(at_s)) for n, at_s in enumerate(np.sort(rng.uniform(1.0, 5.0, 16)))]


def _loop(rng: np.random.Generator, name: str, arrival_s: float) -> Offered:
    calls, cached = [], 0
    for prompt in [CONTEXT, *rng.integers(20, 220, 4).tolist()]:
        ttft_s = TTFT_S if cached else 0.15
        calls.append(Call(prompt, int(rng.integers(8, 40)), ttft_s, 0.05, cached_tokens=cached))
        cached += prompt + calls[-1].output_tokens
    return Offered(arrival_s, tuple(calls), "loop", name)


def first_token_in_time(job: StageJob) -> bool:
    return len(job.token_s) > 0 and float(job.token_s[0]) - job.arrival_s <= 1.05 * job.stage.ttft_slo_s


def test_launching_a_prefill_takes_longer_here_than_an_iteration_of_decodes() -> None:
    assert delays_of(H200).lead_s[CAPTURED] > 1.2 * STEP_S


@pytest.mark.parametrize("seed", range(3))
def test_a_promise_made_while_two_iterations_are_chosen_already_is_kept(seed: int) -> None:
    run = simulate(systems.load("slosgate-ar")(Settings(H200)), loops(seed))
    promised = [job for job in run.jobs if job.admission == "guaranteed"]
    late = [job.id for job in promised if not first_token_in_time(job)]
    assert len(promised) > 60
    assert not late


@pytest.mark.parametrize("age_s", [0.0, 0.002, 0.009, 0.017])
def test_what_has_been_chosen_since_the_latest_report_counts(age_s: float) -> None:
    """The report is of an iteration that has just begun; the arrival comes later, and no other report before."""
    replica = Replica(H200)
    for n in range(10):
        replica.submit(f"answer-{n}", prompt=CONTEXT, ttft_s=2.0, guaranteed=True, output=900)
    replica.run(1.0)
    reported, flight = replica.state(), replica.engine.in_flight
    assert flight is not None
    replica.run(replica.now_s + age_s)
    asked_s = replica.now_s
    ends_s = flight.end_s - asked_s
    known = msgspec.structs.replace(
        reported, busy_for_s=max(0.0, ends_s), running_for_s=asked_s - flight.start_s, overdue_s=max(0.0, -ends_s),
    )  # fmt: skip
    decision = place(arrival(100, 0.2), [known], asked_s)
    replica.submit("new", prompt=100, ttft_s=0.2, guaranteed=True)
    replica.run(asked_s + 0.3)
    assert decision.guaranteed
    assert decision.predicted_ttft_s == pytest.approx(replica.first_s["new"] - asked_s, abs=0.0005)
