"""What the plan follower refuses to run, and whose memory it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.follower import PlanFollower
from slosgate.engines.messages import Plan, PlannedIteration, SloArgs

PROFILE = profiles.load("h200-opt-13b")


def follower() -> PlanFollower:
    return PlanFollower(PROFILE)


def add(follows: PlanFollower, name: str, prompt: int = 100, *, ttft_s: float = 9.0, guaranteed: bool = False) -> None:
    slo = SloArgs(slo_id=name, slo_ttft_ms=ttft_s * 1e3, slo_tpot_ms=100.0, slo_guaranteed=int(guaranteed))
    follows.add(slo, prompt_tokens=prompt, cached_tokens=0, max_tokens=50, now_s=0.0)


def decodes(follows: PlanFollower, name: str, context: int, **changed: object) -> None:
    """Let a request that was added be a decode."""
    job = follows.table[name]
    job["prompt_left"], job["context"], job["generated"] = 0, context, 1
    for field, value in changed.items():
        job[field] = value


def planned(follows: PlanFollower, *entries: PlannedIteration, free_blocks: int, now_s: float = 0.0) -> dict[str, int]:
    """Prompt tokens of each request in the next iteration under a plan."""
    follows.apply(Plan(replica="r", epoch=follows.epoch + 1, issued_at_s=0.0, horizon=entries))
    batch = follows.next_batch(now_s, free_blocks)
    return {follows.table.ids[row]: n for row, n in zip(batch.prefill.tolist(), batch.tokens.tolist(), strict=True)}


def chunk(tokens: int, *, drafts: int | None = None) -> PlannedIteration:
    speculation = () if drafts is None else ((0.1, drafts),)
    return PlannedIteration(token_budget=4000, duration_s=0.1, speculation=speculation, prefill=(("a", tokens),))


def test_a_planned_iteration_needs_its_blocks() -> None:
    follows = follower()
    add(follows, "a", 320)
    assert planned(follows, chunk(200), free_blocks=13) == {"a": 200}
    assert planned(follows, chunk(200), free_blocks=12) == {"a": 192}  # what fits, by the slack rule
    add(follows, "d")
    decodes(follows, "d", 160)
    assert planned(follows, chunk(200, drafts=0), free_blocks=13) != {"a": 200}  # the decode begins a block, too


def test_a_planned_iteration_ends_before_the_next_token_of_a_guarantee_is_due() -> None:
    follows = follower()
    add(follows, "a", 1500)
    add(follows, "sure", guaranteed=True)
    decodes(follows, "sure", 100, due_base_s=0.0, deadline_s=-1.0)
    now_s = 0.1 - PROFILE.perf.iteration_s(1000, 1000, 1)
    assert planned(follows, chunk(1000), free_blocks=4000, now_s=now_s - 0.001) == {"a": 1000}
    assert planned(follows, chunk(1000), free_blocks=4000, now_s=now_s + 0.001) != {"a": 1000}
    follows.table["sure"]["guaranteed"] = False  # best effort holds up no plan
    assert planned(follows, chunk(1000), free_blocks=4000, now_s=now_s + 0.001) == {"a": 1000}


def test_held_jobs_are_not_planned_for() -> None:
    follows = follower()
    add(follows, "a", 320)
    add(follows, "d")
    decodes(follows, "d", 160, held=True)
    plan = Plan(replica="r", epoch=1, issued_at_s=0.0, hold=("d",), horizon=(chunk(100, drafts=0),))
    follows.apply(plan)
    assert follows.next_batch(0.0, 1000).decode.size == 0


def test_drafts_are_no_more_than_the_hardware_verifies() -> None:
    follows = follower()
    add(follows, "a", 320)
    add(follows, "d")
    decodes(follows, "d", 160, acceptance=0.5)
    follows.apply(Plan(replica="r", epoch=1, issued_at_s=0.0, horizon=(chunk(100, drafts=50),)))
    assert follows.next_batch(0.0, 1000).drafts.tolist() == [PROFILE.max_drafts]


def crowd() -> PlanFollower:
    """Decodes that each hold two full blocks, with their first tokens due at different times."""
    follows = follower()
    for name, ttft_s, guaranteed in (("b", 2.0, False), ("c", 3.0, False), ("a", 1.0, False), ("sure", 9.0, True)):
        add(follows, name, ttft_s=ttft_s, guaranteed=guaranteed)
        decodes(follows, name, 32)
    return follows


def test_memory_is_taken_first_from_whose_first_token_was_due_last() -> None:
    assert crowd().to_preempt(free_blocks=3) == ["c"]  # a victim asks for no block itself
    assert crowd().to_preempt(free_blocks=0) == ["c", "b"]
    assert crowd().to_preempt(free_blocks=4) == []
    follows = crowd()
    for name in "abc":
        follows.table[name]["guaranteed"] = True
    assert follows.to_preempt(free_blocks=3) == ["sure"]


def test_of_those_who_are_stuck_the_one_due_last_gives_way() -> None:
    follows = follower()
    assert follows.stuck() is None
    for name, ttft_s, guaranteed in (("b", 2.0, False), ("c", 3.0, False), ("a", 1.0, False), ("sure", 9.0, True)):
        add(follows, name, ttft_s=ttft_s, guaranteed=guaranteed)
    assert follows.stuck() is None  # nobody has memory
    for name in ("a", "b", "c", "sure"):
        follows.table[name]["context"] = 32
    assert follows.stuck() == "c"


def test_whoever_is_preempted_computes_all_of_it_again() -> None:
    follows = follower()
    add(follows, "begun", 100)
    follows.table["begun"]["context"], follows.table["begun"]["prompt_left"] = 40, 60
    add(follows, "decodes", 100)
    decodes(follows, "decodes", 104)
    for name in ("begun", "decodes"):
        follows.preempted(name)
    assert [int(follows.table[n]["prompt_left"]) for n in ("begun", "decodes")] == [100, 105]
    assert [int(follows.table[n]["context"]) for n in ("begun", "decodes")] == [0, 0]


@pytest.mark.parametrize(
    ("ttft_ms", "output", "expected"), [(None, 0, (math.inf, 50)), (500.0, 20, (0.5, 20)), (500.0, 90, (0.5, 50))]
)
def test_what_a_request_says_becomes_a_job(ttft_ms: float | None, output: int, expected: tuple[float, int]) -> None:
    follows = follower()
    slo = SloArgs(slo_id="x", slo_ttft_ms=ttft_ms, slo_guaranteed=1, slo_output_tokens=output)
    follows.add(slo, prompt_tokens=100, cached_tokens=30, max_tokens=50, now_s=0.0)
    job = follows.table["x"]
    assert (float(job["deadline_s"]), int(job["output"])) == expected
    assert (int(job["prompt_left"]), int(job["context"])) == (70, 30)
    assert bool(job["guaranteed"]) is (ttft_ms is not None)  # a pace alone, or nothing, is never a guarantee


def test_without_a_plan_it_promotes_by_itself_and_only_then() -> None:
    def guaranteed_after(seconds: float, plan_at_s: float | None) -> bool:
        follows = follower()
        add(follows, "x", ttft_s=60.0)
        for now_s in np.arange(0.0, seconds, 0.5).tolist():
            if plan_at_s == now_s:
                follows.apply(Plan(replica="r", epoch=1, issued_at_s=now_s))
            follows.next_batch(now_s, 8000)
        return bool(follows.table["x"]["guaranteed"])

    assert not guaranteed_after(3.0, None)
    assert guaranteed_after(4.0, None)
    assert not guaranteed_after(4.0, plan_at_s=2.0)
    assert guaranteed_after(6.0, plan_at_s=2.0)
