"""Promises are rehearsed: what the planner says of an arrival is what a replica then does."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from slosgate.engines.messages import SloArgs
from slosgate.engines.sim.policies.slosgate import SlosgatePolicy
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.planner.controller import Arrival, Decision, ReplicaState, place, promote
from slosgate.planner.jobs import JobTable
from slosgate.planner.profile import HardwareProfile
from tests.planner.cases import H200


class Replica:
    """A simulated one with asynchronous scheduling, and the planner's view of it."""

    def __init__(self, profile: HardwareProfile = H200) -> None:
        self.policy: SlosgatePolicy | None = None
        self.engine = SimReplica(
            profile, self._follow, async_scheduling=True, overhead_s=profile.request_overhead_s
        )  # fmt: skip
        self.first_s: dict[str, float] = {}
        self.now_s = 0.0

    def _follow(self, state):  # type: ignore[no-untyped-def]
        self.policy = SlosgatePolicy(state)
        return self.policy

    def submit(self, name: str, *, prompt: int, ttft_s: float, guaranteed: bool, output: int = 200) -> None:
        slo = SloArgs(slo_id=name, slo_ttft_ms=ttft_s * 1e3, slo_tpot_ms=100.0, slo_guaranteed=int(guaranteed))
        self.engine.submit(
            EngineRequest(id=name, prompt_tokens=prompt, output_tokens=output, slo=slo), self.now_s
        )  # fmt: skip

    def state(self) -> ReplicaState:
        assert self.policy is not None
        flight = self.engine.in_flight
        latest = flight or self.engine.previous
        return ReplicaState(
            "a", self.engine.profile, self.policy.jobs(flight, self.engine.unseen), self.engine.state.pool.free,
            busy_for_s=flight.end_s - self.now_s if flight else 0.0,
            running_for_s=self.now_s - latest.start_s if latest else 0.0,
            overdue_s=max(0.0, self.now_s - latest.end_s) if latest else 0.0, patience=self.policy.follower.patience,
        )  # fmt: skip

    def run(self, until_s: float) -> None:
        """Carry out what ends before `until_s`, which is now then."""
        while True:
            if self.engine.in_flight is None and self.engine.start(self.now_s) is None:
                ready_s = self.engine.ready_s(self.engine.unseen[0][1]) if self.engine.unseen else np.inf
                if ready_s > until_s:
                    break
                self.now_s = max(self.now_s, ready_s)
                continue
            flight = self.engine.in_flight
            assert flight is not None
            if flight.end_s > until_s:
                break
            names = {slot: name for name, slot in self.engine.state.slot_of.items()}
            outcome = self.engine.finish()
            self.now_s = outcome.end_s
            for slot, emitted in zip(outcome.slots.tolist(), outcome.emitted.tolist(), strict=True):
                if emitted:
                    self.first_s.setdefault(names[slot], outcome.end_s)
        self.now_s = until_s


def arrival(prompt: int, ttft_s: float) -> Arrival:
    return Arrival("new", ttft_s, 0.1, prompt, 200)


def asked(replica: Replica, prompt: int, ttft_s: float) -> Decision:
    """What an arrival is told, which is then served so."""
    decision = place(arrival(prompt, ttft_s), [replica.state()], replica.now_s)
    replica.submit("new", prompt=prompt, ttft_s=ttft_s, guaranteed=decision.guaranteed)
    return decision


@pytest.mark.parametrize("seed", range(12))
def test_the_predicted_first_token_comes_when_it_was_predicted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    replica = Replica()
    for n in range(30):
        prompt = int(rng.integers(20, 1200))
        replica.submit(f"r{n}", prompt=prompt, ttft_s=4 * H200.zero_load_ttft_s(prompt), guaranteed=True)
        replica.run(replica.now_s + float(rng.exponential(0.06)))
    arrived_s = replica.now_s
    decision = asked(replica, 300, 2.0)
    replica.run(arrived_s + 3.0)
    assert decision.guaranteed
    assert replica.first_s["new"] - arrived_s == pytest.approx(decision.predicted_ttft_s, rel=0.02)


def test_who_comes_too_late_to_be_seen_in_time_is_not_promised() -> None:
    """The iteration after the one in flight is chosen already: the first token comes behind both."""
    replica = Replica(msgspec.structs.replace(H200, lead_s=1.0))
    for n in range(60):
        replica.submit(f"r{n}", prompt=600, ttft_s=60.0, guaranteed=False)
    replica.run(4.0)
    step_s = replica.state().busy_for_s + replica.state().running_for_s
    idle_s = H200.zero_load_ttft_s(50)
    assert place(arrival(50, 1.2 * idle_s), [ReplicaState("idle", H200, JobTable(), 8000)], 0.0).guaranteed
    assert not place(arrival(50, 1.2 * idle_s), [replica.state()], replica.now_s).guaranteed
    assert place(arrival(50, 3 * step_s + idle_s), [replica.state()], replica.now_s).guaranteed


def test_who_comes_just_before_an_iteration_ends_is_waited_for_and_so_promised() -> None:
    """It could run 3 ms after that end; behind the iteration that would start then, it would be too late."""
    replica = Replica()
    for n in range(60):
        replica.submit(f"r{n}", prompt=600, ttft_s=60.0, guaranteed=False)
    replica.run(4.0)
    replica.run(4.0 + replica.state().busy_for_s - (H200.request_overhead_s - 0.003))
    asked_s, step_s = replica.now_s, replica.state().busy_for_s + replica.state().running_for_s
    ttft_s = 0.003 + step_s + H200.soonest_s(50) - 0.002
    assert asked(replica, 50, ttft_s).guaranteed
    replica.run(asked_s + 1.0)
    assert replica.first_s["new"] <= asked_s + ttft_s


def crowded(free: int) -> ReplicaState:
    """Eight answers that should end with the next token, and so many blocks beside them."""
    jobs = JobTable()
    for n in range(8):
        jobs.add(f"long-{n}", deadline_s=-1.0, due_base_s=-9.9, tpot_s=0.1, prompt_left=0, context=1000, generated=100,
                 output=101, guaranteed=True)  # fmt: skip
    return ReplicaState("a", msgspec.structs.replace(H200, kv_blocks=8 * 63 + free), jobs, free)


def test_memory_counts_once_it_is_free_and_not_when_it_should_be() -> None:
    assert place(arrival(800, 0.5), [crowded(free=80)], 0.0).guaranteed
    assert not place(arrival(800, 0.5), [crowded(free=20)], 0.0).guaranteed

    state = crowded(free=20)
    state.jobs.add("new", deadline_s=0.5, tpot_s=0.1, prompt_left=800, output=200, guaranteed=False)
    assert promote(state, 0.0) == ()
    for n in range(4):
        state.jobs.remove(f"long-{n}")
    assert promote(replace(state, free_blocks=20 + 4 * 63), 0.1) == ("new",)


@given(now_s=st.floats(0.0, 2e9))
def test_a_lone_arrival_on_an_idle_replica_is_promised_at_any_time(now_s: float) -> None:
    replica = ReplicaState("idle", H200, JobTable(), H200.kv_blocks)
    arrival = Arrival(request_id="lone", ttft_s=0.5, tpot_s=0.1, prompt_tokens=100, output_tokens=20)
    decision = place(arrival, [replica], now_s)
    assert decision.guaranteed
    assert decision.predicted_ttft_s == pytest.approx(H200.zero_load_ttft_s(100), abs=1e-6)
