"""What the desk decides about a request before and after it is placed."""

from __future__ import annotations

import math

import msgspec
import pytest
from msgspec.structs import replace

from slosgate.planner.controller import Arrival, Decision, ReplicaState
from slosgate.planner.desk import SHIPPED, DeskSettings, decide, due_in_s, run_next
from slosgate.planner.jobs import JobTable
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.prefixes import Cached
from slosgate.planner.recalibration import recalibrated
from tests.planner.cases import H200

STRICT = Arrival(
    "new", ttft_s=0.3, tpot_s=0.1, prompt_tokens=1000, output_tokens=100, when_full="reject", prompt_is_exact=True
)


def replica(name: str = "a", cached_tokens: int = 0) -> ReplicaState:
    return ReplicaState(name, H200, JobTable(), free_blocks=8000, cached=Cached(cached_tokens))


def code(arrival: Arrival, *replicas: ReplicaState) -> str:
    verdict = decide(arrival, replicas, 0.0)
    if isinstance(verdict, Decision):
        return "guaranteed" if verdict.guaranteed else "best-effort"
    return verdict.code if verdict.retry_after_s is None else f"{verdict.code}, later"


def test_an_idle_replica_guarantees() -> None:
    assert code(STRICT, replica()) == "guaranteed"


def test_an_slo_out_of_reach_is_refused_for_good_only_for_a_counted_prompt() -> None:
    soon = replace(STRICT, ttft_s=0.02)
    assert code(soon, replica()) == "slo_unreachable"
    assert code(replace(soon, prompt_is_exact=False), replica()) == "best-effort"
    assert code(replace(soon, when_full="best-effort"), replica()) == "best-effort"
    assert code(replace(soon, when_full="best-effort", stated=True), replica()) == "slo_unreachable"
    assert code(replace(soon, when_full="overflow", stated=True), replica()) == "slo_not_admitted, later"
    assert code(replace(STRICT, tpot_s=0.001), replica()) == "slo_unreachable"


def test_nobody_is_told_to_come_back_for_what_no_idle_replica_would_promise() -> None:
    busy = replace(replica(), busy_for_s=60.0)
    assert code(STRICT, busy) == "slo_not_admitted, later"
    close = replace(STRICT, ttft_s=H200.zero_load_ttft_s(1000) + 0.001)  # in reach, but less than the headroom away
    long = replace(STRICT, tpot_s=H200.perf.iteration_s(1, 1010, 1))  # in reach at first, not after so many tokens
    unsure = replace(STRICT, ttft_s=0.02, prompt_is_exact=False)
    for arrival in (close, long, unsure):
        for state in (replica(), busy):
            assert code(arrival, state) == "best-effort"
        assert code(replace(arrival, when_full="overflow"), busy) == "slo_not_admitted, later"


def test_what_follows_from_planned_lengths_alone_is_never_out_of_reach_for_good() -> None:
    assert code(replace(STRICT, tpot_s=0.001, derived=True), replica()) == "best-effort"


def test_what_may_be_cached_of_a_prompt_puts_its_slo_in_reach() -> None:
    soon = replace(STRICT, ttft_s=0.03)
    assert code(soon, replica()) == "slo_unreachable"
    assert code(soon, replica(), replica("b", cached_tokens=950)) != "slo_unreachable"


@pytest.mark.parametrize("strict", [STRICT, replace(STRICT, ttft_s=math.inf, tpot_s=0.03)])
def test_what_a_replica_learned_of_late_puts_no_slo_out_of_reach_for_good(strict: Arrival) -> None:
    terms = tuple(recalibrated(term, 10.0, 0.0) for term in H200.perf.terms)
    slow = msgspec.structs.replace(H200, perf=PerfModel(terms))
    assert code(strict, replace(replica(), profile=slow)) == "slo_unreachable"
    assert code(strict, replace(replica(), profile=slow, registered=H200)) == "slo_not_admitted, later"


def test_the_time_a_request_has_waited_is_no_part_of_what_it_asks_for() -> None:
    waited = replace(STRICT, ttft_s=0.03, waited_s=0.27)
    assert code(waited, replica()) == "slo_not_admitted, later"


def test_a_prompt_beyond_the_window_is_refused_once_it_is_counted() -> None:
    endless = replace(STRICT, prompt_tokens=H200.max_model_tokens, when_full="best-effort", ttft_s=math.inf)
    assert code(endless, replica()) == "context_length_exceeded"
    assert code(replace(endless, prompt_is_exact=False), replica()) == "best-effort"


def test_a_class_that_rejects_is_told_at_once_what_can_never_be_guaranteed() -> None:
    assert code(replace(STRICT, sequences=2), replica()) == "slo_unsupported"
    assert code(STRICT) == "slo_unsupported"  # no replica whose profile is known
    assert code(replace(STRICT, sequences=2, when_full="best-effort"), replica()) == "best-effort"
    assert code(replace(STRICT, when_full="best-effort")) == "best-effort"


def test_plans_aim_before_the_slo_by_the_headroom_but_by_a_quarter_of_it_at_most() -> None:
    assert due_in_s(STRICT) == pytest.approx(0.3 - SHIPPED.headroom_s)
    assert due_in_s(replace(STRICT, ttft_s=0.1, waited_s=0.2)) == pytest.approx(0.1 - SHIPPED.headroom_s)
    assert due_in_s(replace(STRICT, ttft_s=0.04)) == pytest.approx(0.03)
    assert due_in_s(replace(STRICT, ttft_s=math.inf, tpot_s=math.inf, waited_s=1.0)) == SHIPPED.overtaken_s - 1.0


def test_the_headroom_decides_what_is_still_promised() -> None:
    tight = replace(STRICT, ttft_s=H200.soonest_s(1000) + 0.014)
    decided = [decide(tight, [replica()], 0.0, settings) for settings in (SHIPPED, DeskSettings(headroom_s=0.0))]
    assert [isinstance(decision, Decision) and decision.guaranteed for decision in decided] == [False, True]


def test_no_more_replicas_are_asked_than_the_hop_limit_says() -> None:
    full = replace(replica("full"), free_blocks=10)  # the first to be asked, but without memory
    free = replace(replica("free"), busy_for_s=0.1)
    costly = replace(STRICT, when_full="best-effort", ttft_s=0.35)
    found = [decide(costly, [full, free], 0.0, DeskSettings(hop_limit=n)) for n in (1, 2)]
    assert [isinstance(d, Decision) and d.guaranteed for d in found] == [False, True]


def test_a_plan_counts_with_the_promises_that_it_comes_with() -> None:
    state = replica()
    state.jobs.add("hopeful", deadline_s=0.5, tpot_s=0.1, prompt_left=500, output=50, guaranteed=False)
    orders = run_next(state, 0.0)
    assert orders.promoted == ("hopeful",)
    assert orders.plan.horizon
    assert not state.jobs["hopeful"]["guaranteed"]  # until whoever asked has given the promise
    assert run_next(state, 0.0, promotes=False).promoted == ()
