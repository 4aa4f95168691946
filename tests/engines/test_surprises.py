"""Replicas that are not what they were said to be: what is promised after 20 seconds is kept all the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.policies.slosgate import SlosgatePolicy
from slosgate.engines.sim.state import EngineState
from slosgate.engines.sim.systems import Call, Offered, Settings, StageJob
from slosgate.engines.sim.systems.base import Fleet
from slosgate.engines.sim.systems.slosgate import FrontEnd, PlannedSystem
from slosgate.planner.profile import HardwareProfile, Launches

H200 = msgspec.structs.replace(
    profiles.load("h200-llama-3.1-8b"), max_model_tokens=16384, max_batched_tokens=8192, launches=Launches()
)
A100 = msgspec.structs.replace(profiles.load("a100-opt-13b"), max_model_tokens=16384)
LEARNED_S, SECONDS = 20.0, 50.0
TTFT_S, TPOT_S = {"coder": 0.4, "chatbot": 1.0}, 0.05
TIGHT_TTFT_S = {"coder": 0.25, "chatbot": 0.25}  # with 150 ms of it in the front end
THROTTLED = "its front end is throttled"


class Mistaken(PlannedSystem):
    """Plans with another profile than the one its replica runs by."""

    def __init__(self, settings: Settings, planned: HardwareProfile) -> None:
        self._planned = planned
        super().__init__(settings, FrontEnd())

    def _policy(self, state: EngineState) -> SlosgatePolicy:
        policy = SlosgatePolicy(state, profile=self._planned, rates=self._rates)
        self._policies.append(policy)
        return policy


class Slowing(PlannedSystem):
    """Its replica gets 30 % slower in the middle."""

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        if job.id == "r0":
            fleet.at(now_s + 5.0, self._slow)
        super().arrive(fleet, job, now_s)

    def _slow(self, _now_s: float) -> None:
        state = self.replicas[0].state
        state.coefficients = 1.3 * state.coefficients


class Throttled(PlannedSystem):
    """Its front end has too little CPU from some moment on: requests take 50 to 150 ms through it, by turns."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, FrontEnd())
        self._random = np.random.default_rng(2)

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        if job.id == "r0":
            fleet.at(now_s + 5.0, partial(self._throttle, fleet))
        super().arrive(fleet, job, now_s)

    def _throttle(self, fleet: Fleet, now_s: float) -> None:
        self.replicas[0].state.overhead_s = float(self._random.uniform(0.05, 0.15))
        fleet.wake(0, now_s)
        if now_s < SECONDS:
            fleet.at(now_s + 0.25, partial(self._throttle, fleet))


def offered(rate_rps: float, ttft_s: dict[str, float]) -> list[Offered]:
    """Code completion and chat, half and half, as Azure's are on average."""
    rng = np.random.default_rng(5)
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, int(SECONDS * rate_rps)))
    return [_request(f"r{n}", float(at_s), rng, ttft_s) for n, at_s in enumerate(arrivals)]


def _request(name: str, arrival_s: float, rng: np.random.Generator, ttft_s: dict[str, float]) -> Offered:
    kind = str(rng.choice(["coder", "chatbot"]))
    prompt, output = (2000, 28) if kind == "coder" else (1100, 200)
    call = Call(
        prompt_tokens=int(min(7000, 1 + rng.exponential(prompt))), output_tokens=int(1 + rng.exponential(output)),
        ttft_slo_s=ttft_s[kind], tpot_slo_s=TPOT_S,
    )  # fmt: skip
    return Offered(arrival_s, (call,), kind, name)


def attained(job: StageJob) -> bool:
    if not len(job.token_s):
        return False
    due_s = max(job.arrival_s + job.stage.ttft_slo_s, float(job.token_s[0]))
    late_s = job.token_s - due_s - 1.05 * TPOT_S * np.arange(len(job.token_s))
    return bool(job.token_s[0] - job.arrival_s <= 1.05 * job.stage.ttft_slo_s and late_s.max() <= 1e-9)


def anothers(profile: HardwareProfile) -> HardwareProfile:
    """The replica's own memory and limits, and the speed of another."""
    return msgspec.structs.replace(H200, perf=profile.perf, launches=profile.launches)


SURPRISES: dict[str, Callable[[], PlannedSystem]] = {
    "another GPU's profile, a slower one": lambda: Mistaken(Settings(H200), anothers(A100)),
    "another GPU's profile, a faster one": lambda: Mistaken(
        Settings(H200, slowdown=1.5), anothers(profiles.load("h200-llama-3.1-8b"))
    ),
    "it slows down by 30 % while it serves": lambda: Slowing(Settings(H200), FrontEnd()),
    THROTTLED: lambda: Throttled(Settings(H200)),
}


@pytest.mark.parametrize("surprise", SURPRISES)
def test_what_is_promised_after_20_seconds_is_kept(surprise: str) -> None:
    run = simulate(SURPRISES[surprise](), offered(9.0, TIGHT_TTFT_S if surprise == THROTTLED else TTFT_S))
    promised = [job for job in run.jobs if job.admission == "guaranteed" and job.arrival_s > LEARNED_S]
    kept = np.mean([attained(job) for job in promised])
    assert len(promised) > 0.5 * sum(job.arrival_s > LEARNED_S for job in run.jobs)
    assert kept >= 0.98, f"{kept:.1%} of {len(promised)}"
