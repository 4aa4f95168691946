"""The plan follower: what it runs, with a plan and without."""

from __future__ import annotations

import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.follower import UNPLANNED_S, PlanFollower, Progress, progress_of
from slosgate.engines.messages import Announcement, IterationReport, Plan, PlannedIteration, SloArgs, read_slo
from slosgate.planner.batch import Batch
from slosgate.planner.perf_model import PerfModel, Term

PROFILE = profiles.load("h200-opt-13b")


def follower(**prompts: int) -> PlanFollower:
    """Best-effort jobs with so many prompt tokens."""
    follows = PlanFollower(PROFILE)
    for name, prompt_tokens in prompts.items():
        add(follows, SloArgs(slo_id=name), prompt_tokens)
    return follows


def add(follows: PlanFollower, slo: SloArgs, prompt_tokens: int) -> None:
    follows.add(slo, prompt_tokens=prompt_tokens, cached_tokens=0, max_tokens=50, now_s=0.0)


def plan(epoch: int, *horizon: PlannedIteration, hold: tuple[str, ...] = (), guaranteed: tuple[str, ...] = ()) -> Plan:
    return Plan(replica="r", epoch=epoch, issued_at_s=float(epoch), horizon=horizon, hold=hold, guaranteed=guaranteed)


def chunk(name: str, tokens: int, budget: int = 1000) -> PlannedIteration:
    return PlannedIteration(token_budget=budget, duration_s=0.1, prefill=((name, tokens),))


def prefills(follows: PlanFollower, batch: Batch) -> dict[str, int]:
    return {follows.table.ids[row]: n for row, n in zip(batch.prefill.tolist(), batch.tokens.tolist(), strict=True)}


def run(follows: PlanFollower, now_s: float = 0.0) -> Batch:
    """Choose an iteration and carry it out."""
    batch = follows.next_batch(now_s, free_blocks=8000)
    rows = np.concatenate([batch.decode, batch.prefill])
    first = (follows.table.rows["prompt_left"][batch.prefill] == batch.tokens).astype(np.int64)
    emitted = np.concatenate([batch.drafts + 1, first])
    prompt = np.concatenate([np.zeros_like(batch.decode), batch.tokens])
    computed = np.concatenate([batch.drafts + 1, batch.tokens])
    follows.record(Progress(rows, computed, prompt, emitted), now_s + batch.duration_s)
    return batch


def test_the_horizon_is_followed_entry_by_entry_then_the_slack_rule() -> None:
    follows = follower(a=300)
    follows.apply(plan(1, chunk("a", 100), chunk("a", 50)))
    assert [prefills(follows, run(follows)) for _ in range(3)] == [{"a": 100}, {"a": 50}, {"a": 150}]


def test_without_a_gateway_what_has_an_slo_is_promised_it_and_what_has_none_is_not() -> None:
    follows = follower()
    for name, promises in (("asked", 1), ("in line", 0)):
        add(follows, SloArgs(slo_id=name, slo_ttft_ms=60_000.0, slo_tpot_ms=100.0, slo_promises=promises), 100)
    follows.next_batch(0.0, free_blocks=8000)
    follows.next_batch(UNPLANNED_S, free_blocks=8000)  # no plan has come
    assert [name for name in follows.table if follows.table[name]["guaranteed"]] == ["asked"]


def test_a_newer_plan_replaces_what_is_left_of_an_older_one() -> None:
    follows = follower(a=300)
    follows.apply(plan(1, chunk("a", 100), chunk("a", 100)))
    run(follows)
    assert follows.apply(plan(2, chunk("a", 30)))
    assert not follows.apply(plan(1, chunk("a", 100)))
    assert prefills(follows, run(follows)) == {"a": 30}
    assert follows.epoch == 2


def test_a_counter_that_began_anew_is_believed_after_a_while() -> None:
    follows = follower(a=300)
    follows.apply(plan(100))
    assert not follows.apply(Plan(replica="r", epoch=1, issued_at_s=101.0))
    assert follows.apply(Plan(replica="r", epoch=2, issued_at_s=110.0))


@pytest.mark.parametrize(
    "entry",
    [chunk("gone", 10), chunk("a", 301), chunk("a", 20, budget=10), PlannedIteration(token_budget=9, duration_s=1.0)],
    ids=["names a job that left", "more than is left", "over its own budget", "empty"],
)
def test_an_entry_that_does_not_fit_is_dropped_with_the_rest(entry: PlannedIteration) -> None:
    follows = follower(a=300)
    follows.apply(plan(1, entry, chunk("a", 100)))
    assert prefills(follows, run(follows)) == {"a": 300}


def test_an_entry_that_would_make_a_guarantee_late_is_not_followed() -> None:
    follows = follower(a=1500)
    add(follows, SloArgs(slo_id="soon", slo_ttft_ms=60.0, slo_tpot_ms=100.0, slo_guaranteed=1), 500)
    follows.apply(plan(1, chunk("a", 1500, budget=2000)))
    assert "soon" in prefills(follows, run(follows))


def test_only_the_planned_tiers_decode_with_the_planned_drafts() -> None:
    follows = follower()
    for name, tpot_ms in (("fast", 50.0), ("slow", 100.0)):
        add(follows, SloArgs(slo_id=name, slo_ttft_ms=500.0, slo_tpot_ms=tpot_ms), 10)
    run(follows)
    entry = PlannedIteration(token_budget=9, duration_s=0.02, speculation=((0.05, 3),))
    follows.apply(plan(1, entry))
    batch = follows.next_batch(0.05, free_blocks=8000)
    assert [follows.table.ids[row] for row in batch.decode.tolist()] == ["fast"]
    assert batch.drafts.tolist() == [3]


def test_orders_reach_jobs_that_arrive_after_them() -> None:
    follows = follower()
    follows.apply(plan(1, hold=("a",), guaranteed=("b",)))
    add(follows, SloArgs(slo_id="a"), 10)
    add(follows, SloArgs(slo_id="b", slo_ttft_ms=500.0), 10)
    assert prefills(follows, follows.next_batch(0.0, 8000)) == {"b": 10}
    assert bool(follows.table["b"]["guaranteed"])


def test_memory_is_taken_from_held_jobs_then_best_effort_then_guarantees() -> None:
    follows = follower()
    for name, guaranteed in (("sure", 1), ("effort", 0), ("held", 0)):
        add(follows, SloArgs(slo_id=name, slo_ttft_ms=900.0, slo_tpot_ms=50.0, slo_guaranteed=guaranteed), 16)
    run(follows)
    follows.apply(plan(1, hold=("held",)))
    # Both decodes need a second block and none is free; each job holds one.
    assert follows.to_preempt(free_blocks=0) == ["held", "effort"]
    follows.preempted("effort")
    job = follows.table["effort"]
    assert (int(job["prompt_left"]), int(job["context"]), int(job["generated"])) == (17, 0, 1)


def test_tokens_are_due_from_the_deadline_or_a_late_first_token() -> None:
    follows = follower()
    add(follows, SloArgs(slo_id="a", slo_ttft_ms=500.0, slo_tpot_ms=50.0), 10)
    add(follows, SloArgs(slo_id="late", slo_ttft_ms=1.0, slo_tpot_ms=50.0), 10)
    run(follows, now_s=0.2)
    progress = {p.request_id: p for p in progress_of(follows.table)}
    assert progress["a"].due_base_s == 0.5
    assert 0.2 < progress["late"].due_base_s < 0.3


def test_a_better_performance_model_is_taken_over() -> None:
    better = PerfModel((Term(constant_s=0.5),))
    follows = PlanFollower(PROFILE, recalibrate=lambda report: better)
    nothing = np.empty(0, np.int64)
    follows.record(Progress(nothing, nothing, nothing, nothing), 0.0, IterationReport(0.01, 1, 1, 1))
    assert follows.profile.perf == better


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"slo_id": "x", "slo_ttft_ms": 5, "other": 1}, SloArgs(slo_id="x", slo_ttft_ms=5.0)),
        ({"slo_tpot_ms": "40"}, SloArgs(slo_id="mine", slo_tpot_ms=40.0)),
        ({"slo_ttft_ms": "soon"}, SloArgs(slo_id="mine")),
        (None, SloArgs(slo_id="mine")),
    ],
    ids=["complete", "no id, number as text", "nonsense", "none"],
)
def test_slo_arguments_that_cannot_be_read_are_best_effort(extra: dict[str, object] | None, expected: SloArgs) -> None:
    assert read_slo(extra, "mine") == expected


def test_a_request_on_its_way_is_waited_for_until_it_is_here_or_should_be() -> None:
    follows = follower(a=300)
    run(follows)
    step_s = follows.next_batch(1.0, free_blocks=8000).duration_s
    hasty_s = PROFILE.soonest_s(20) + PROFILE.decide_s + step_s / 2
    follows.announce(Announcement("hasty", 20, hasty_s), 1.0)
    here_s = 1.0 + PROFILE.request_overhead_s
    start_s = 1.001 + PROFILE.decide_s
    assert follows.rests_until_s(1.001, start_s, 8000) == here_s
    assert follows.awaits(start_s, 8000)
    add(follows, SloArgs(slo_id="hasty", slo_ttft_ms=1e3 * hasty_s), 20)
    assert follows.rests_until_s(1.001, start_s, 8000) == 1.001
    follows.announce(Announcement("lost", 20, hasty_s), 1.0)
    assert follows.rests_until_s(here_s, here_s + PROFILE.decide_s, 8000) == here_s  # it may come, and nobody waits


def test_best_effort_on_its_way_is_not_waited_for() -> None:
    for guaranteed in (True, False):
        follows = follower(a=300)
        run(follows)
        step_s = follows.next_batch(1.0, free_blocks=8000).duration_s
        hasty_s = PROFILE.soonest_s(20) + PROFILE.decide_s + step_s / 2
        follows.announce(Announcement("hasty", 20, hasty_s, guaranteed), 1.0)
        assert follows.awaits(1.001 + PROFILE.decide_s, 8000) == guaranteed


@pytest.mark.parametrize("plan_first", [True, False])
def test_what_a_plan_promises_on_its_way_is_waited_for(plan_first: bool) -> None:
    follows = follower(a=300)
    run(follows)
    step_s = follows.next_batch(1.0, free_blocks=8000).duration_s
    hasty_s = PROFILE.soonest_s(20) + PROFILE.decide_s + step_s / 2
    promising = Plan(replica="r", epoch=7, issued_at_s=1.0, horizon=(), guaranteed=("hasty",))
    if plan_first:
        follows.apply(promising)
    follows.announce(Announcement("hasty", 20, hasty_s, guaranteed=False), 1.0)
    if not plan_first:
        follows.apply(promising)
    assert follows.awaits(1.001 + PROFILE.decide_s, 8000)


def test_a_few_requests_tell_how_long_the_front_end_takes() -> None:
    follows = follower()
    for n in range(4):
        follows.announce(Announcement(f"r{n}", 20, 1.0, guaranteed=False), 10.0 + n)
        assert follows.profile.request_overhead_s == PROFILE.request_overhead_s
        slo = SloArgs(slo_id=f"r{n}", slo_ttft_ms=1e3)
        follows.add(slo, prompt_tokens=20, cached_tokens=0, max_tokens=9, now_s=10.0 + n, seen_s=10.05 + n)
    assert follows.profile.request_overhead_s == pytest.approx(0.05)


@pytest.mark.parametrize(("announced_s", "waits"), [(10.97, True), (1.0, False)], ids=["on its way", "lost"])
def test_an_announced_request_that_never_came_is_forgotten(announced_s: float, waits: bool) -> None:
    follows = follower(a=300)
    run(follows)
    follows.announce(Announcement("b", 20, 11.0 - announced_s), announced_s)
    soon_s = 11.0 - PROFILE.perf.iteration_s(20, 20, 1) - PROFILE.decide_s - 0.001  # in time, but not behind another
    assert follows.awaits(soon_s, 8000) is waits
