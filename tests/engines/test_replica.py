"""The simulated replica under both policies, iteration by iteration."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slosgate.engines import profiles
from slosgate.engines.messages import Plan, SloArgs
from slosgate.engines.sim import policies
from slosgate.engines.sim.blocks import Part
from slosgate.engines.sim.policies.vllm import VllmPolicy
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.planner.profile import HardwareProfile

H200 = profiles.load("h200-opt-13b")


def small(blocks: int = 20, *, budget: int = 64) -> HardwareProfile:
    return msgspec.structs.replace(
        H200, kv_blocks=blocks, max_batched_tokens=budget, request_overhead_s=0.0, decide_s=0.0
    )


def request(name: str, prompt: int, output: int, **more: Any) -> EngineRequest:
    return EngineRequest(id=name, prompt_tokens=prompt, output_tokens=output, **more)


def loop(blocks: int, name: str = "loop") -> tuple[Part, ...]:
    """What the calls of a loop hold: the beginning is the same in each."""
    return (Part(name, blocks),)


def iteration(replica: SimReplica, now_s: float = 0.0) -> dict[str, int]:
    """Run one iteration; new tokens of each request in it."""
    started = replica.start(now_s)
    if started is None:
        return {}
    batch = started.batch
    slots = [*batch.decode.tolist(), *batch.prefill.tolist()]
    tokens = [*(batch.drafts + 1).tolist(), *batch.tokens.tolist()]
    named = {replica.state.request(slot).id: count for slot, count in zip(slots, tokens, strict=True)}
    replica.finish()
    return named


def run_dry(replica: SimReplica) -> list[dict[str, int]]:
    log = []
    while ran := iteration(replica):
        log.append(ran)
    return log


class TestVllm:
    def test_decodes_and_prefills_share_one_budget_in_order_of_admission(self) -> None:
        replica = SimReplica(small(), VllmPolicy)
        replica.submit(request("a", 40, 3), 0.0)
        replica.submit(request("b", 40, 3), 0.0)
        assert run_dry(replica) == [{"a": 40, "b": 24}, {"a": 1, "b": 16}, {"a": 1, "b": 1}, {"b": 1}]

    def test_the_last_running_sequence_is_preempted_and_computed_again(self) -> None:
        replica = SimReplica(small(5), VllmPolicy)
        replica.submit(request("a", 32, 20), 0.0)
        replica.submit(request("b", 31, 20), 0.0)
        log = run_dry(replica)
        # b reaches 32 + 1 tokens one iteration after a took the last block for its 33rd, and starts over with 33.
        assert log[:3] == [{"a": 32, "b": 31}, {"a": 1, "b": 1}, {"a": 1}]
        assert {"b": 33} in log
        assert replica.state.preemptions == 1
        assert replica.counters.output_tokens == 40

    def test_a_prompt_waits_until_all_of_it_fits(self) -> None:
        replica = SimReplica(small(4), VllmPolicy)
        replica.submit(request("a", 40, 2), 0.0)
        replica.submit(request("b", 20, 1), 0.0)
        assert run_dry(replica) == [{"a": 40}, {"a": 1}, {"b": 20}]

    def test_a_budget_and_a_speculation_length_can_be_set(self) -> None:
        replica = SimReplica(small(), partial(VllmPolicy, budget=10, drafts=2))
        replica.submit(request("a", 15, 7, acceptance=1.0), 0.0)
        assert run_dry(replica) == [{"a": 10}, {"a": 5}, {"a": 3}, {"a": 3}]


class TestSlosgate:
    def test_the_tighter_deadline_runs_first(self) -> None:
        replica = SimReplica(small(60), policies.load("slosgate"))
        for name, ttft_ms in (("late", 900.0), ("soon", 60.0)):
            slo = SloArgs(slo_id=name, slo_ttft_ms=ttft_ms, slo_tpot_ms=100.0, slo_guaranteed=1)
            replica.submit(request(name, 60, 2, slo=slo), 0.0)
        assert next(iter(iteration(replica))) == "soon"

    def test_a_request_with_slo_arguments_that_make_no_sense_is_best_effort(self) -> None:
        replica = SimReplica(small(), policies.load("slosgate"))
        replica.submit(request("a", 10, 2), 0.0)
        assert run_dry(replica) == [{"a": 10}, {"a": 1}]

    def test_best_effort_is_held_preempted_and_finished(self) -> None:
        replica = SimReplica(small(), policies.load("slosgate"))
        replica.submit(request("a", 20, 4), 0.0)
        assert iteration(replica) == {"a": 20}
        replica.apply(Plan(replica="r", epoch=1, issued_at_s=0.0, hold=("a",)))
        assert iteration(replica) == {}
        assert replica.state.pool.free == 18
        replica.apply(Plan(replica="r", epoch=2, issued_at_s=0.0, preempt=("a",)))
        assert iteration(replica) == {}
        assert replica.state.pool.free == 20
        replica.apply(Plan(replica="r", epoch=3, issued_at_s=0.0))
        # Its prompt and the token it had emitted are computed again, then it goes on.
        assert run_dry(replica) == [{"a": 21}, {"a": 1}, {"a": 1}]
        assert replica.counters.output_tokens == 4


@pytest.mark.parametrize("policy", ["vllm", "slosgate"])
class TestAny:
    def test_a_cancelled_request_frees_its_blocks_when_its_iteration_ends(self, policy: str) -> None:
        replica = SimReplica(small(), policies.load(policy))
        replica.submit(request("a", 40, 9), 0.0)
        replica.start(0.0)
        assert replica.cancel("a")
        assert not replica.cancel("a")
        outcome = replica.finish()
        assert (outcome.emitted.tolist(), replica.state.pool.free, replica.requests) == ([0], 20, 0)

    def test_a_later_stage_finds_its_prefix(self, policy: str) -> None:
        replica = SimReplica(small(), policies.load(policy))
        replica.submit(request("s/0", 40, 10, parts=loop(4)), 0.0)
        run_dry(replica)
        replica.submit(request("s/1", 60, 1, parts=loop(4)), 1.0)
        # 49 tokens were computed, so 3 whole blocks are there.
        assert run_dry(replica) == [{"s/1": 12}]

    def test_a_later_stage_computes_again_what_others_took(self, policy: str) -> None:
        replica = SimReplica(small(budget=400), policies.load(policy))
        replica.submit(request("s/0", 40, 10, parts=loop(4)), 0.0)
        run_dry(replica)
        replica.submit(request("other", 260, 30), 1.0)  # 19 of the 20 blocks
        run_dry(replica)
        replica.submit(request("s/1", 60, 1, parts=loop(4)), 2.0)
        assert run_dry(replica) == [{"s/1": 60 - 16}]

    def test_a_request_that_can_never_fit_is_refused(self, policy: str) -> None:
        replica = SimReplica(small(2), policies.load(policy))
        with pytest.raises(ValueError, match="more than the replica has"):
            replica.submit(request("a", 30, 5), 0.0)

    def test_drafts_are_accepted_as_often_as_they_should_be(self, policy: str) -> None:
        del policy
        replica = SimReplica(small(400), partial(VllmPolicy, drafts=3))
        replica.submit(request("a", 10, 4000, acceptance=0.7), 0.0)
        steps = len(run_dry(replica)) - 1
        expected = (1 - 0.7**4) / (1 - 0.7)
        assert 4000 / steps == pytest.approx(expected, rel=0.05)

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_no_block_is_lost_over_random_steps(self, policy: str, data: st.DataObject) -> None:
        asynchronous = data.draw(st.booleans())
        replica = SimReplica(small(16), policies.load(policy), async_scheduling=asynchronous, noise=0.1)
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        names = [f"r{n}" for n in range(25)]
        now_s, owed = 0.0, 0
        for name in names:
            output = int(rng.integers(1, 40))
            slo = SloArgs(
                slo_id=name,
                slo_ttft_ms=float(rng.integers(20, 500)),
                slo_tpot_ms=50.0,
                slo_guaranteed=int(rng.integers(2)),
            )
            parts = (*loop(2, "system"), *loop(13, f"s{rng.integers(3)}"))
            replica.submit(
                request(name, int(rng.integers(1, 200)), output, slo=slo, parts=parts, acceptance=0.5), now_s
            )
            owed += output
            for _ in range(int(rng.integers(4))):
                started = replica.start(now_s)
                if rng.random() < 0.2:
                    replica.cancel(names[int(rng.integers(25))])
                if started is not None:
                    now_s = started.end_s
                    replica.finish()
                assert replica.state.pool.free + int(replica.state.sequences["blocks"].sum()) >= 16
        while (started := replica.start(now_s)) is not None:
            now_s = started.end_s
            replica.finish()
        assert (replica.requests, replica.state.pool.free) == (0, 16)
        assert replica.counters.finished + replica.counters.cancelled == 25


class Name:
    """A part's name that counts how often any is looked up."""

    looked_up = 0

    def __hash__(self) -> int:
        Name.looked_up += 1
        return id(self)


def test_an_arrival_costs_as_much_as_its_prefix_is_long_whoever_runs() -> None:
    def lookups(length: int, sharing: int) -> int:
        prefix = tuple(Part(Name(), 1) for _ in range(length))
        replica = SimReplica(small(10_000, budget=8192), VllmPolicy)
        for number in range(sharing):
            replica.submit(request(f"r{number}", length * 16 + 1, 50, parts=prefix), 0.0)
            iteration(replica)
        before = Name.looked_up
        replica.submit(request("next", length * 16 + 1, 50, parts=prefix), 0.0)
        assert replica.state.cached(replica.state.request(replica.state.slot_of["next"])) == length * 16
        return Name.looked_up - before

    assert max(lookups(100, 1), lookups(100, 20)) < 10 * 100


def test_policies_are_told_apart_by_name() -> None:
    with pytest.raises(policies.UnknownPolicy, match="slosgate, vllm"):
        policies.load("fifo")


def test_noise_is_seeded() -> None:
    def durations(seed: int) -> list[float]:
        replica = SimReplica(small(), VllmPolicy, seed=seed, noise=0.05)
        replica.submit(request("a", 10, 5), 0.0)
        run_dry(replica)
        return [report.duration_s for report in replica.reports]

    assert durations(1) == durations(1) != durations(2)
