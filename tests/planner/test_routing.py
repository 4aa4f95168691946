"""Routers: whom each asks first, and that none of them has a promise given that can't be kept."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from slosgate.planner.controller import Arrival, Decision, ReplicaState
from slosgate.planner.desk import DeskSettings, decide
from slosgate.planner.jobs import JobTable
from slosgate.planner.prefixes import Cached
from slosgate.planner.routing import ROUTERS, RouterName
from tests.planner.cases import H200

SLOW = msgspec.structs.replace(
    H200,
    perf=msgspec.structs.replace(
        H200.perf,
        terms=tuple(
            msgspec.structs.replace(
                term,
                per_new_token_s=4 * term.per_new_token_s,
                per_context_token_s=4 * term.per_context_token_s,
                constant_s=4 * term.constant_s,
            )
            for term in H200.perf.terms
        ),
    ),
)


def replica(
    name: str, *, decodes: int = 0, tpot_s: float = 0.1, queued: int = 0, due_s: float = 3.0, sent_s: float = -math.inf
) -> ReplicaState:
    jobs = JobTable()
    for n in range(decodes):
        jobs.add(f"d{n}", deadline_s=-1.0, due_base_s=0.05, tpot_s=tpot_s, prompt_left=0, context=500, generated=1,
                 output=100, guaranteed=True)  # fmt: skip
    if queued:
        jobs.add("q", deadline_s=due_s, tpot_s=tpot_s, prompt_left=queued, output=50, guaranteed=True)
    return ReplicaState(name, H200, jobs, 8000, sent_s=sent_s)


def arrival(name: str = "new", *, prompt: int = 500, ttft_s: float = 1.0, tpot_s: float = 0.1) -> Arrival:
    return Arrival(name, ttft_s, tpot_s, prompt, 100)


def chosen(router: RouterName, request: Arrival, replicas: list[ReplicaState]) -> str:
    found = decide(request, replicas, 0.0, DeskSettings(router=router))
    assert isinstance(found, Decision)
    return replicas[found.replica].name


def test_replicas_take_turns() -> None:
    replicas = [replica("a", sent_s=5.0), replica("b", sent_s=3.0), replica("c", decodes=9, sent_s=4.0)]
    assert chosen("round-robin", arrival(), replicas) == "b"
    assert chosen("round-robin", arrival(), replicas[::2]) == "c"


def test_the_fewest_requests_are_the_least_load_whatever_they_are() -> None:
    replicas = [replica("many", decodes=3), replica("long", queued=6000)]
    assert chosen("least-load", arrival(), replicas) == "long"
    assert chosen("least-work", arrival(), replicas) == "many"
    assert chosen("least-loss", arrival(), replicas) == "many"
    assert chosen("soonest", arrival(), replicas) == "many"


def test_two_choices_are_drawn_by_the_requests_id_and_every_pair_is_as_likely() -> None:
    replicas = [replica(name, decodes=n) for n, name in enumerate("abcd")]
    asked = [arrival(f"r{n}") for n in range(600)]
    taken = Counter(chosen("power-of-two", one, replicas) for one in asked)
    assert chosen("power-of-two", asked[0], replicas) == chosen("power-of-two", asked[0], replicas)
    assert not taken["d"]  # the other one always has fewer
    for name, pairs in (("a", 3), ("b", 2), ("c", 1)):
        assert taken[name] == pytest.approx(600 * pairs / 6, rel=0.25)


def test_least_work_takes_only_where_the_request_can_be_in_time() -> None:
    before = replica("due before", queued=4000, due_s=0.15)
    after = replica("due after", queued=4200, due_s=3.0)
    assert ROUTERS["least-work"](arrival(ttft_s=0.17), [before, after], 0.0) == [1, 0]
    assert ROUTERS["least-work"](arrival(ttft_s=2.0), [before, after], 0.0) == [0, 1]


def waiting(name: str, *prompts: tuple[int, float], tpot_s: float = 0.1, decodes: int = 0) -> ReplicaState:
    """With best effort that waits: (prompt tokens, due in seconds)."""
    found = replica(name, tpot_s=tpot_s, decodes=decodes)
    for n, (tokens, due_s) in enumerate(prompts):
        found.jobs.add(f"w{n}", deadline_s=due_s, tpot_s=tpot_s, prompt_left=tokens, output=50, guaranteed=False)
    return found


def test_a_request_goes_where_it_takes_no_others_place() -> None:
    tight, patient = waiting("tight", (4000, 0.2)), waiting("patient", (6000, 5.0))
    request = arrival(prompt=2000, ttft_s=0.3)
    assert chosen("least-work", request, [tight, patient]) == "tight"
    assert chosen("least-loss", request, [tight, patient]) == "tight"  # it is due later, and can wait
    hasty = arrival(prompt=2000, ttft_s=0.12)
    assert chosen("least-work", hasty, [tight, patient]) == "tight"
    assert chosen("least-loss", hasty, [tight, patient]) == "patient"


def test_a_tight_pace_stays_off_a_replica_of_loose_decodes_where_it_would_make_prompts_late() -> None:
    loose = waiting("loose", (9000, 0.5), decodes=60)
    tight = waiting("tight", (9000, 9.0), decodes=60, tpot_s=0.02)
    assert chosen("least-loss", arrival(tpot_s=0.1, prompt=50), [loose, tight]) == "loose"
    assert chosen("least-loss", arrival(tpot_s=0.02, prompt=50), [loose, tight]) == "tight"


def test_polyserve_fills_the_replicas_of_a_tier() -> None:
    tight, fuller = replica("tight", decodes=2, tpot_s=0.05), replica("fuller", decodes=2, queued=300)
    loose, empty = replica("loose", decodes=2), replica("empty")
    every = [tight, loose, fuller, empty]
    assert chosen("polyserve", arrival(tpot_s=0.05), every) == "tight"
    assert chosen("polyserve", arrival(tpot_s=0.1), every) == "fuller"
    assert chosen("polyserve", arrival(tpot_s=0.2), every) == "empty"
    assert chosen("polyserve", arrival(tpot_s=0.2), every[:3]) == "loose"  # the loosest of the tighter tiers


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_a_session_goes_on_where_its_prefix_is(router: RouterName) -> None:
    replicas = [replica(name, decodes=n) for n, name in enumerate("abcd")]
    replicas[2] = msgspec.structs.replace(replicas[2], cached=Cached(likely=4500))
    assert {chosen(router, arrival(f"r{n}", prompt=5000), replicas) for n in range(8)} == {"c"}


@pytest.mark.parametrize("router", sorted(ROUTERS.keys() - {"soonest"}))  # which goes by the first token alone
def test_a_session_goes_on_where_its_prefix_is_also_among_many(router: RouterName) -> None:
    replicas = [replica(str(n), decodes=n) for n in range(40)]
    replicas[33] = msgspec.structs.replace(replica("33", decodes=3, queued=2500), cached=Cached(likely=2000))
    assert chosen(router, arrival(prompt=2100), replicas) == "33"


@pytest.mark.parametrize("router", ["soonest", "least-work", "least-loss"])
def test_work_counts_in_time_so_that_a_fast_replica_takes_more_of_it(router: RouterName) -> None:
    slow = msgspec.structs.replace(replica("slow", queued=1000), profile=SLOW)
    assert chosen(router, arrival(), [slow, replica("fast", queued=2000)]) == "fast"
    assert chosen(router, arrival(), [slow, replica("fast", queued=6000)]) == "slow"
    others = [replica(f"fast{n}", queued=2000 + n) for n in range(40)]
    assert chosen(router, arrival(), [slow, *reversed(others)]) == "fast0"


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_every_router_names_each_replica_once_and_no_promise_is_given_that_the_first_can_not_keep(
    router: RouterName,
) -> None:
    full = replica("full", queued=30_000, due_s=1.1)
    replicas = [full, *(replica(name, decodes=n) for n, name in enumerate("abcdefghi"))]
    for n in range(20):
        request = arrival(f"r{n}", ttft_s=0.5)
        order = ROUTERS[router](request, replicas, 0.0)
        assert sorted(order) == list(range(len(replicas)))
        found = decide(request, replicas, 0.0, DeskSettings(router=router))
        assert isinstance(found, Decision)
        assert found.guaranteed
        assert replicas[found.replica].name != "full"


def test_the_order_of_64_replicas_is_that_of_their_costs_as_far_as_it_matters() -> None:
    replicas = [replica(str(n), decodes=n * 7 % 64, queued=100 * (n * 13 % 64)) for n in range(64)]
    for router in ("soonest", "least-work", "least-loss"):
        order = ROUTERS[router](arrival(), replicas, 0.0)
        queued = [sum(replicas[n].jobs.rows["prompt_left"]) for n in order]
        assert all(a <= b + 400 for a, b in pairwise(queued[:8]))
