"""Placing and promoting, one decision at a time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from slosgate.planner.controller import Arrival, ReplicaState, place, plan_replica, promote
from slosgate.planner.jobs import JobTable
from slosgate.planner.prefixes import Cached
from tests.planner.cases import H200

INF = float("inf")


def state(name: str = "a", *, free: int = 8000, busy_for_s: float = 0.0) -> ReplicaState:
    return ReplicaState(name, H200, JobTable(), free, busy_for_s=busy_for_s)


def arrival(prompt: int = 500, ttft_s: float = 0.3, tpot_s: float = 0.1, output: int = 100) -> Arrival:
    return Arrival("new", ttft_s, tpot_s, prompt, output)


def full(name: str) -> ReplicaState:
    """Idle for the eye, since nothing is queued: but a guarantee holds nearly all of its memory for minutes."""
    found = state(name, free=5)
    found.jobs.add("long", deadline_s=-1.0, due_base_s=5.0, tpot_s=0.1, prompt_left=0, context=16 * 8000, generated=1,
                   output=3000, guaranteed=True)  # fmt: skip
    return found


def queued(name: str, tokens: int, due_s: float = 2.0) -> ReplicaState:
    found = state(name)
    found.jobs.add("waiting", deadline_s=due_s, tpot_s=0.1, prompt_left=tokens, output=50, guaranteed=True)
    return found


def test_no_more_replicas_are_asked_than_the_hop_limit() -> None:
    replicas = [full("a"), full("b"), queued("c", 2000)]
    assert place(arrival(ttft_s=1.0), replicas, 0.0, hop_limit=3).replica == 2
    assert place(arrival(ttft_s=1.0), replicas, 0.0, hop_limit=3).guaranteed
    lost = place(arrival(ttft_s=1.0), replicas, 0.0, hop_limit=2)
    assert (lost.replica, lost.guaranteed) == (0, False)


def test_the_least_loaded_is_asked_first() -> None:
    assert place(arrival(), [queued("a", 3000), queued("b", 200), state("c", busy_for_s=0.25)], 0.0).replica == 1


def test_a_retry_pays_once_the_queue_has_gone_down_to_what_the_slo_leaves() -> None:
    busy = queued("a", 12_000, due_s=0.2)
    lost = place(arrival(), [busy], 0.0)
    assert lost.retry_after_s == pytest.approx(lost.predicted_ttft_s - 0.3)
    just = place(arrival(ttft_s=lost.predicted_ttft_s - 0.01), [full("a")], 0.0)
    assert just.retry_after_s == 0.05  # at least


def test_what_the_memory_never_holds_and_what_the_window_never_takes_is_not_worth_a_retry() -> None:
    for prompt in (H200.max_model_tokens + 1, H200.kv_blocks * H200.block_tokens):
        assert place(arrival(prompt=prompt, ttft_s=100.0), [state()], 0.0).retry_after_s is None


def test_nobody_is_promised_what_would_break_an_older_promise() -> None:
    """The newcomer would be in time, and there is time for both: but not in iterations that can't be interrupted."""
    prompt_s = 1.395 * H200.perf.iteration_s(1000, 1000, 1)

    def asked(promised: bool) -> bool:
        found = state()
        found.jobs.add("older", deadline_s=prompt_s, tpot_s=0.1, prompt_left=1000, output=60, guaranteed=promised)
        for n in range(20):
            found.jobs.add(f"d{n}", deadline_s=-1.0, due_base_s=0.001 * n - 0.1, tpot_s=0.1, prompt_left=0, context=300,
                           generated=1, output=60, guaranteed=True)  # fmt: skip
        return place(arrival(prompt=100, ttft_s=0.8 * prompt_s, output=60), [found], 0.0).guaranteed

    assert asked(promised=False)
    assert not asked(promised=True)


def test_an_iteration_in_flight_is_waited_for() -> None:
    own_s = H200.zero_load_ttft_s(500)
    assert place(arrival(ttft_s=2 * own_s), [state()], 0.0).guaranteed
    late = place(arrival(ttft_s=2 * own_s), [state(busy_for_s=2 * own_s)], 0.0)
    assert not late.guaranteed
    assert late.predicted_ttft_s > 3 * own_s - 1e-9


def test_a_prefix_that_is_cached_for_sure_need_not_be_computed_for_a_promise() -> None:
    own_s = H200.zero_load_ttft_s(1500)
    hasty = arrival(prompt=1500, ttft_s=0.6 * own_s)
    assert not place(hasty, [replace(state(), cached=Cached(likely=1400))], 0.0).guaranteed
    assert place(hasty, [replace(state(), cached=Cached(likely=1400, sure=1400))], 0.0).guaranteed
    assert place(arrival(), [state("a"), replace(state("b"), cached=Cached(likely=400))], 0.0).replica == 1


def test_what_is_cached_takes_its_room_among_the_free_blocks() -> None:
    long = arrival(prompt=1600, output=32, ttft_s=9.0)
    whole = Cached(likely=1500, sure=1500)
    assert place(long, [replace(state(free=103), cached=whole)], 0.0).guaranteed
    assert not place(long, [replace(state(free=90), cached=whole)], 0.0).guaranteed


def loose(found: ReplicaState, name: str, deadline_s: float, blocks: int) -> None:
    found.jobs.add(name, deadline_s=deadline_s, due_base_s=deadline_s + 9.0, tpot_s=0.1, prompt_left=0,
                   context=16 * blocks, generated=5, output=400, guaranteed=False)  # fmt: skip


def test_those_due_last_make_room_and_no_more_than_it_takes() -> None:
    def crowded(free: int) -> ReplicaState:
        found = state(free=free)
        for name, deadline_s in (("soon", -3.0), ("later", -1.0), ("last", INF), ("sooner", -2.0)):
            loose(found, name, deadline_s, 60)
        return found

    assert place(arrival(prompt=16 * 120), [crowded(100)], 0.0).preempt == ("last",)
    found = crowded(10)
    found.jobs.add("promised", deadline_s=1.0, tpot_s=0.1, prompt_left=16 * 120, output=10, guaranteed=True)
    assert plan_replica(found, 0.0, horizon_s=0.5).preempt == ("last", "later")


def test_guarantees_make_no_room() -> None:
    found = state(free=10)
    loose(found, "loose", 0.5, 60)
    loose(found, "given", INF, 60)
    found.jobs["given"]["guaranteed"] = True
    found.jobs.add("promised", deadline_s=1.0, tpot_s=0.1, prompt_left=16 * 60, output=10, guaranteed=True)
    assert plan_replica(found, 0.0, horizon_s=0.5).preempt == ("loose",)
    found.jobs["promised"]["prompt_left"] = 16 * 100
    assert plan_replica(found, 0.0, horizon_s=0.5).preempt == ()


def test_nobody_makes_room_in_vain() -> None:
    found = state(free=10)
    loose(found, "loose", INF, 20)
    assert plan_replica(found, 0.0, horizon_s=0.5).preempt == ()  # nobody waits
    found.jobs.add("promised", deadline_s=1.0, tpot_s=0.1, prompt_left=16 * 100, output=10, guaranteed=True)
    assert plan_replica(found, 0.0, horizon_s=0.5).preempt == ()  # not even all of it would be enough


def decoding(tpot_s: float, count: int = 40) -> ReplicaState:
    """Best effort whose first tokens came in time."""
    found = state()
    for n in range(count):
        found.jobs.add(f"d{n}", deadline_s=0.5, due_base_s=0.5, tpot_s=tpot_s, prompt_left=0, context=900, generated=1,
                       output=300, guaranteed=False)  # fmt: skip
    return found


def test_what_has_no_slo_is_never_promoted() -> None:
    """Its deadline only says until when others may go first."""
    found = decoding(1.0, count=3)
    found.jobs.add("waits", deadline_s=1.0, tpot_s=INF, prompt_left=100, output=10, guaranteed=False)
    assert len(promote(found, 0.4)) == 4
    for name in ("d0", "waits"):
        found.jobs[name]["has_slo"] = False
    assert promote(found, 0.4) == ("d1", "d2")


def test_no_pace_is_promised_that_cannot_be_kept() -> None:
    step_s = H200.perf.iteration_s(40, 40 * 901, 40)
    assert len(promote(decoding(1.5 * step_s), 0.4)) == 40
    assert promote(decoding(0.8 * step_s), 0.4) == ()


def test_only_what_can_still_be_won_is_promoted() -> None:
    def promoted(**changed: object) -> tuple[str, ...]:
        found = state()
        found.jobs.add("x", deadline_s=1.0, tpot_s=0.1, prompt_left=200, output=50, guaranteed=False)
        for name, value in changed.items():
            found.jobs["x"][name] = value
        return promote(found, 0.5)

    assert promoted() == ("x",)
    assert promoted(held=True) == ()
    assert promoted(guaranteed=True) == ()
    assert promoted(deadline_s=0.4) == ()
    assert promoted(deadline_s=INF) == ()
    assert promoted(generated=3) == ()  # begun, then preempted: its first token was had already
    assert promoted(prompt_left=0, context=200, generated=1, due_base_s=1.0) == ("x",)
    assert promoted(prompt_left=0, context=200, generated=1, due_base_s=1.01) == ()  # its first token was late


def test_of_many_who_wait_those_due_first_are_looked_at() -> None:
    found = state()
    for n in range(40):
        found.jobs.add(f"w{n}", deadline_s=2.0 - 0.01 * n, tpot_s=0.1, prompt_left=20, output=20, guaranteed=False)
    assert set(promote(found, 0.0)) == {f"w{n}" for n in range(8, 40)}
