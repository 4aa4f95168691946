"""How many replicas are wanted, by what was asked for of late."""

from __future__ import annotations

import math

import pytest

from slosgate.engines import profiles
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings
from slosgate.engines.sim.systems.base import GUARANTEED
from slosgate.engines.sim.systems.slosgate import FrontEnd, PlannedSystem
from slosgate.planner.controller import Arrival
from slosgate.planner.desk import SHIPPED, due_in_s
from slosgate.planner.sizing import Came, Demand, Steadied, as_it_came, replicas_wanted

PROFILE = profiles.load("a100-opt-13b")
CHAT = Came(0.0, ttft_s=0.5, tpot_s=0.1, prompt_tokens=700, output_tokens=200)


def steady(rate_rps: float, came: Came = CHAT) -> list[Came]:
    """A minute of such requests, evenly spread."""
    return [came._replace(arrival_s=n / rate_rps) for n in range(round(60 * rate_rps))]


def test_nothing_is_wanted_for_nobody() -> None:
    assert replicas_wanted([], PROFILE) == 0


def test_more_are_wanted_for_more_whatever_was_guessed() -> None:
    wanted = [[replicas_wanted(steady(rate), PROFILE, near=near) for near in (1, 9)] for rate in (1, 4, 8, 16)]
    assert all(few == many for few, many in wanted)
    assert wanted[0] == [1, 1]
    assert wanted[0][0] <= wanted[1][0] < wanted[2][0] < wanted[3][0]


def test_so_many_can_promise_it_and_half_as_many_can_not() -> None:
    wanted = replicas_wanted(steady(8), PROFILE)
    call = Call(CHAT.prompt_tokens, CHAT.output_tokens, CHAT.ttft_s, CHAT.tpot_s)
    offered = [Offered(came.arrival_s, (call,), "chat", str(n)) for n, came in enumerate(steady(8))]

    def promised(replicas: int) -> float:
        jobs = simulate(PlannedSystem(Settings(profile=PROFILE, replicas=replicas), FrontEnd()), offered).jobs
        return sum(job.admission == GUARANTEED for job in jobs) / len(jobs)

    assert promised(wanted) > 0.95 > promised(wanted // 2)


@pytest.mark.parametrize("hopeless", [
    CHAT._replace(ttft_s=0.001), CHAT._replace(tpot_s=0.001), CHAT._replace(output_tokens=4000),
])  # fmt: skip
def test_what_not_even_an_idle_replica_could_meet_wants_none(hopeless: Came) -> None:
    assert replicas_wanted(steady(8, hopeless), PROFILE) == 0
    mixed = sorted(steady(2) + steady(8, hopeless))
    assert replicas_wanted(mixed, PROFILE) == replicas_wanted(steady(2), PROFILE)


def test_other_gateways_are_asked_as_much() -> None:
    assert replicas_wanted(steady(4), PROFILE, times=3) == replicas_wanted(steady(12), PROFILE)


def test_a_burst_of_many_requests_is_answered_by_its_own_pace() -> None:
    assert replicas_wanted(steady(32), PROFILE) == pytest.approx(4 * replicas_wanted(steady(8), PROFILE), abs=2)


def test_without_an_slo_a_request_wants_to_begin_before_others_may_overtake_it_no_more() -> None:
    arrival = Arrival("r", math.inf, math.inf, 100, 50, sequences=2)
    came = as_it_came(arrival, 30, 7.0, SHIPPED)
    assert came == Came(7.0, due_in_s(arrival), math.inf, 70, 100)


def test_demand_is_of_the_last_minute_and_answers_are_as_long_as_they_were() -> None:
    demand = Demand()
    demand.came("old", CHAT, "chat", has_slo=True, met=False)
    demand.came("done", CHAT._replace(arrival_s=50.0), "chat", has_slo=True, met=None)
    demand.came("runs", CHAT._replace(arrival_s=55.0), "chat", has_slo=True, met=None)
    demand.came("other", CHAT._replace(arrival_s=56.0), "code", has_slo=True, met=True)
    demand.ended("done", 40, met=False)
    assert [came.output_tokens for came in demand.recent(61.0)] == [40, 40, 200]
    assert demand.unmet(61.0, PROFILE) == {"chat": 1, "code": 0}
    assert demand.recent(200.0) == []


def test_what_can_not_be_met_is_no_shortage() -> None:
    demand = Demand()
    demand.came("r", CHAT._replace(tpot_s=0.001), "chat", has_slo=True, met=False)
    assert demand.unmet(1.0, PROFILE) == {"chat": 0}


def test_up_at_once_and_down_when_fewer_have_been_enough() -> None:
    steadied = Steadied(least=1, most=6, down_after_s=60.0)
    wanted = [(0, 0), (5, 4), (10, 9), (15, 2), (60, 3), (70, 2), (75, 1), (120, 1), (121, 1), (136, 1)]
    assert [steadied.at(now_s, number) for now_s, number in wanted] == [1, 4, 6, 6, 6, 6, 3, 3, 2, 1]
