"""Routers beside each other: what they are compared on, and what is told of it."""

from __future__ import annotations

from collections import Counter

import pytest
from rich.console import Console

from slosgate.bench import counts, planner_bench, scenarios
from slosgate.bench.reproduce import routing
from slosgate.bench.reproduce.routing import Place
from slosgate.bench.results import Row
from slosgate.engines import profiles
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings
from slosgate.planner.desk import SHIPPED
from slosgate.planner.routing import ROUTERS

A100, H200 = profiles.load("a100-opt-13b"), profiles.load("h200-opt-13b")


def test_a_long_load_begins_before_the_scenarios_own_slice_and_goes_on_after_it() -> None:
    longer = scenarios.longer(scenarios.load("mixed"), 4)
    assert longer.classes["coder"].slice_s == (1186, 2386)
    assert longer.classes["chatbot"].slice_s == (300, 1500)
    assert longer.classes["summarizer"].slice_s == (0, 1200)  # there is nothing before it


def test_many_replicas_get_one_long_load_and_few_get_two_that_differ() -> None:
    few, many = Place("coder", 4).question("edf"), Place("coder", 16).question("edf")
    assert counts.load_of(few, 20.0, 0).requests != counts.load_of(few, 20.0, 1).requests
    assert (few.seeds, many.seeds) == (2, 1)
    assert len(counts.load_of(many, 80.0, 0).requests) > 3 * len(counts.load_of(few, 80.0, 0).requests)


@pytest.mark.parametrize("system", ["slosgate-ar-soonest", "slosgate-ar-least-work", "edf-least-work"])
def test_of_two_speeds_the_fast_replica_takes_more(system: str) -> None:
    call = Call(prompt_tokens=1500, output_tokens=10, ttft_slo_s=3.0, tpot_slo_s=0.1)
    load = [Offered(0.03 * n, (call,), id=f"r{n}") for n in range(60)]
    fleet = systems.load(system)(Settings(A100, 2, others=(H200,)))
    taken = Counter(job.replica for job in simulate(fleet, load).jobs)
    assert taken[1] > 1.8 * taken[0] > 0


def test_every_router_can_be_asked_for_by_name_and_only_the_order_differs() -> None:
    call = Call(prompt_tokens=300, output_tokens=5, ttft_slo_s=1.0, tpot_slo_s=0.1)
    for router in ROUTERS:
        fleet = systems.load(f"slosgate-ar-{router}")(Settings(A100, 3))
        jobs = simulate(fleet, [Offered(0.01 * n, (call,), id=f"r{n}") for n in range(9)]).jobs
        assert all(job.admission == "guaranteed" for job in jobs)
        assert len({job.replica for job in jobs}) == (1 if router == "polyserve" else 3)


def test_a_decision_among_many_replicas_costs_hardly_more_than_with_one() -> None:
    rows = planner_bench.decisions(running=32, tiers=3, profile=H200, calls=60, seed=0)
    times = {row["replicas"]: row["times_one"] for row in rows}
    assert times[1] == 1
    assert times[32] < 1.8  # 1.2 where nothing else runs


def test_the_table_has_a_line_for_each_place_and_the_means_are_relative_to_the_default() -> None:
    rows: list[Row] = [
        {
            "scenario": "coder", "hardware": hardware, "replicas": 4, "router": router, "system": router,
            "capacity_rps_per_gpu": rate, "trace_source": "azure-code-2023 (real)",
        }
        for hardware, times in (("a100", 1.0), ("a100 and h200", 2.0))
        for router, rate in ((SHIPPED.router, 2.0 * times), ("round-robin", 1.0 * times))
    ]  # fmt: skip
    assert routing._means(rows) == {SHIPPED.router: 1.0, "round-robin": 0.5}
    console = Console(width=80)
    with console.capture() as said:
        console.print(routing.table(rows))
    assert "2+2" in said.get()
    assert "GENERATED" not in said.get()
