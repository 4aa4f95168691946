import numpy as np
import pytest
from msgspec.structs import replace

from slosgate.planner.controller import Arrival, ReplicaState, place, plan_replica, promote
from slosgate.planner.jobs import JobTable
from slosgate.planner.prefixes import Cached
from tests.planner.cases import H200, random_jobs, rolled

INF = float("inf")


def replica(name: str, *, queued: int = 0, guaranteed: bool = True, free: int = 8000, prefix: int = 0) -> ReplicaState:
    """A replica with a prompt of `queued` tokens waiting, due in half a second."""
    jobs = JobTable()
    if queued:
        jobs.add("waiting", deadline_s=0.5, tpot_s=0.1, prompt_left=queued, output=100, guaranteed=guaranteed)
    return ReplicaState(name, H200, jobs, free_blocks=free, cached=Cached(prefix))


def arrival(**changed: float) -> Arrival:
    facts = {"ttft_s": 0.3, "tpot_s": 0.1, "prompt_tokens": 1000, "output_tokens": 100} | changed
    return Arrival("new", facts["ttft_s"], facts["tpot_s"], int(facts["prompt_tokens"]), int(facts["output_tokens"]))


def test_an_idle_replica_guarantees() -> None:
    decision = place(arrival(), [replica("a")], 0.0)
    assert decision.guaranteed
    assert decision.predicted_ttft_s == pytest.approx(0.049, rel=0.1)


def test_the_replica_with_the_prefix_is_asked_first() -> None:
    assert place(arrival(), [replica("a"), replica("b", prefix=900)], 0.0).replica == 1


def test_a_busy_replica_passes_the_request_on() -> None:
    busy = [replica(n, queued=12_000) for n in "abc"]
    assert place(arrival(), [*busy, replica("idle")], 0.0).replica == 3
    lost = place(arrival(), busy, 0.0)
    assert not lost.guaranteed
    assert lost.retry_after_s is not None


def test_what_no_replica_could_ever_meet_is_not_worth_a_retry() -> None:
    decision = place(arrival(tpot_s=0.001), [replica("a")], 0.0)
    assert not decision.guaranteed
    assert decision.retry_after_s is None


def test_without_an_slo_a_request_is_plain_best_effort() -> None:
    decision = place(arrival(ttft_s=INF, tpot_s=INF), [replica("a")], 0.0)
    assert not decision.guaranteed
    assert decision.retry_after_s is None


def test_best_effort_makes_room_for_a_guarantee() -> None:
    state = replica("a", free=10)
    state.jobs.add("loose", deadline_s=INF, tpot_s=INF, prompt_left=0, context=1600, generated=5, output=400,
                   guaranteed=False)  # fmt: skip
    assert place(arrival(), [state], 0.0).preempt == ("loose",)


def test_nobody_is_promised_what_best_effort_about_to_start_would_break() -> None:
    tight = arrival(ttft_s=0.025, prompt_tokens=50)
    assert place(tight, [replica("idle")], 0.0).guaranteed
    state = replica("about to start")
    state.jobs.add("late", deadline_s=-1.0, tpot_s=0.1, prompt_left=2000, output=100, guaranteed=False)
    assert not place(tight, [state], 0.0).guaranteed


def test_a_long_prompt_is_promised_only_when_little_of_it_is_left() -> None:
    state = replace(replica("a"), firm_tokens=400)
    assert place(arrival(prompt_tokens=400), [state], 0.0).guaranteed
    waits = place(arrival(prompt_tokens=1000), [state], 0.0)
    assert (waits.guaranteed, waits.retry_after_s) == (False, None)
    assert place(replace(arrival(prompt_tokens=1000), when_full="reject"), [state], 0.0).guaranteed
    assert place(replace(arrival(prompt_tokens=1000), weight=2.5), [state], 0.0).guaranteed

    state.jobs.add("new", deadline_s=0.3, tpot_s=0.1, prompt_left=1000, output=100, guaranteed=False)
    assert promote(state, 0.0) == ()
    state.jobs["new"]["prompt_left"] = 400
    assert promote(state, 0.0) == ("new",)


def test_whoever_got_the_first_token_in_time_is_promised_the_others() -> None:
    state = replica("a")
    for name, due_base_s in (("early", 0.3), ("late", 0.4)):
        state.jobs.add(name, deadline_s=0.3, due_base_s=due_base_s, tpot_s=0.1, prompt_left=0, context=500, generated=1,
                       output=100, guaranteed=False)  # fmt: skip
    assert promote(state, 0.5) == ()  # behind by now
    assert promote(state, 0.35) == ("early",)


def test_promotion_never_costs_a_guarantee_its_slo() -> None:
    rng = np.random.default_rng(5)
    promoted_in_all = 0
    for _ in range(25):
        jobs = random_jobs(rng, 10, 12, forced=0.2)
        state = ReplicaState("a", H200, jobs, free_blocks=4000)
        promoted = promote(state, 0.0)
        promoted_in_all += len(promoted)
        assert not any(jobs[job_id]["guaranteed"] for job_id in promoted)
        assert jobs.rows["guaranteed"].sum() < len(jobs)
        for job_id in promoted:
            jobs[job_id]["guaranteed"] = True
        assert not set(promote(state, 0.0)) & set(promoted)
    assert promoted_in_all > 25


def test_what_is_guaranteed_is_in_time_when_the_rule_is_rolled_forward() -> None:
    kept = total = 0
    rng = np.random.default_rng(6)
    for _ in range(20):
        jobs = JobTable()
        state = ReplicaState("a", H200, jobs, free_blocks=8000)
        for n in range(15):
            prompt = int(rng.integers(50, 1500))
            slo = Arrival(f"r{n}", 4 * H200.zero_load_ttft_s(prompt), float(rng.choice([0.05, 0.1])), prompt, 60)
            guaranteed = place(slo, [state], 0.0).guaranteed
            jobs.add(slo.request_id, deadline_s=slo.ttft_s, tpot_s=slo.tpot_s, prompt_left=prompt, output=60,
                     guaranteed=guaranteed)  # fmt: skip
        _, seen = rolled(jobs, free_blocks=8000, horizon_s=10.0)
        promised = jobs.rows["guaranteed"]
        total += int(promised.sum())
        kept += int((promised & ~seen.missed).sum())
    assert total > 60
    assert kept >= 0.97 * total


@pytest.mark.parametrize(("late", "fits"), [(500, True), (12_000, False)], ids=["little left", "too much left"])
def test_a_broken_promise_is_work_to_be_done_first_and_bars_nobody(late: int, fits: bool) -> None:
    state = replica("a")
    state.jobs.add("late", deadline_s=-0.1, tpot_s=0.1, prompt_left=late, output=100, guaranteed=True)
    assert place(arrival(), [state], 0.0).guaranteed is fits
    state.jobs.add("new", deadline_s=0.3, tpot_s=0.1, prompt_left=1000, output=100, guaranteed=False)
    assert promote(state, 0.0) == (("new",) if fits else ())


def test_a_plan_names_requests_tiers_and_budgets() -> None:
    state = replica("a", queued=300)
    state.jobs.add("decode", deadline_s=0, due_base_s=-0.1, tpot_s=0.05, prompt_left=0, context=50, generated=2,
                   output=30, guaranteed=True)  # fmt: skip
    plan = plan_replica(state, 0.0, horizon_s=0.2)
    assert ("waiting", 300) in [chunk for step in plan.horizon for chunk in step.prefill]
    assert any(step.speculation == ((0.05, 0),) for step in plan.horizon)
    assert all(step.token_budget > 0 and step.duration_s > 0 for step in plan.horizon)
