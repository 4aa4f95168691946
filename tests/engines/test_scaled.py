"""Replicas that come and go in virtual time."""

from __future__ import annotations

import pytest

from slosgate.bench.reproduce.autoscaling import chosen
from slosgate.engines import profiles
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings
from slosgate.engines.sim.systems.scaled import ByThreshold, Pace, ScaledSystem, Seen, by_shortage
from slosgate.planner.sizing import Steadied

PROFILE = profiles.load("a100-opt-13b")
PACE = Pace(every_s=5.0, start_s=12.0, ends_s=60.0)


def offered(rate_rps: float) -> list[Offered]:
    call = Call(700, 100, ttft_slo_s=0.5, tpot_slo_s=0.1)
    return [Offered(n / rate_rps, (call,), "chat", str(n)) for n in range(round(60 * rate_rps))]


def test_replicas_serve_once_they_have_started_and_finish_what_they_have() -> None:
    def scaler(seen: Seen, now_s: float) -> int:
        return 3 if 10 <= now_s < 40 else 1

    system = ScaledSystem(Settings(profile=PROFILE, replicas=3), scaler, Steadied(1, 3, 1.0), PACE)
    jobs = simulate(system, offered(4)).jobs
    assert all(job.finished for job in jobs)
    assert 22 <= min(job.arrival_s for job in jobs if job.replica > 0) < 24
    assert len({job.replica for job in jobs if 24 < job.arrival_s < 40}) == 3
    assert len({job.replica for job in jobs if job.arrival_s > 46}) == 1
    # One for the whole time, two from 10 s on; one goes at 40 s, one at 45 s, when they have finished.
    assert system.finish() == pytest.approx(60 + 30 + 35, abs=12)
    assert system.most == 3


@pytest.mark.parametrize("scaler", [by_shortage, ByThreshold(8)], ids=["shortage", "threshold"])
def test_both_ways_to_scale_answer_to_load(scaler: ByThreshold) -> None:
    few, many = (
        ScaledSystem(Settings(profile=PROFILE, replicas=8), scaler, Steadied(1, 8, 120.0), PACE) for _ in range(2)
    )
    simulate(few, offered(0.5))
    simulate(many, offered(12))
    assert few.most == 1 < many.most


def test_a_threshold_changes_nothing_for_a_tenth() -> None:
    wanted = [ByThreshold(10)(Seen(PROFILE, 4, in_flight=n), 0.0) for n in (37, 43, 45, 30)]
    assert wanted == [4, 4, 5, 3]


def test_the_table_has_of_each_kind_what_is_cheapest_for_as_much() -> None:
    def row(scaling: str, mean_replicas: float, attainment: float) -> dict[str, object]:
        return {"scaling": scaling, "mean_replicas": mean_replicas, "attainment": attainment}

    ours, dear, cheap, poor = (
        row("slosgate", 4, 0.97), row("threshold", 6, 0.99), row("threshold", 5, 0.975), row("threshold", 3, 0.92),
    )  # fmt: skip
    fixed = row("fixed", 7, 0.96)
    assert list(chosen([ours, dear, cheap, poor, fixed])) == [ours, cheap, poor, fixed]
