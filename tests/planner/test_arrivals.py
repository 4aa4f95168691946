"""How long arrivals can wait, and whom the next iteration waits for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slosgate.planner.arrivals import Coming, Next, Patience, awaited_s, bearable_s
from slosgate.planner.jobs import JobTable
from slosgate.planner.machine import machine_of
from tests.planner.cases import H200

DECIDE_S = 0.003


def test_patience_is_what_the_slo_leaves_beside_the_prompt_itself() -> None:
    known = Patience()
    known.observe(float("inf"), 100, H200)
    assert known.latest_s.size == 0  # no SLO, no hurry
    for n in range(300):
        known.observe(1.0 + n, 100, H200)
    own_s = H200.request_overhead_s + H200.perf.iteration_s(100, 100, 1)
    assert known.latest_s.max() == 300.0 - own_s
    assert known.latest_s.min() > 100.0  # the older ones are forgotten


def waited_for_s(*coming: tuple[float, float], lag_s: float = DECIDE_S, bearable_s: float = math.inf) -> float:
    """Until when an iteration of 40 ms is put off that could start at 1 s; each that comes is (ready, latest)."""
    ready_s, latest_s = (np.array(times) for times in zip(*coming, strict=True))
    same = np.ones(len(coming))
    return float(
        awaited_s(Coming(ready_s, latest_s, lag_s * same, 0.01 * same), Next(1.0, 1.0, 0.04, bearable_s), DECIDE_S)
    )


@pytest.mark.parametrize(
    ("latest_s", "waits"),
    [
        (1.007, False),  # too late even for the one that waits for it
        (1.009, True),
        (1.042, True),
        (1.044, False),  # the iteration after the next will do
    ],
)
def test_who_is_on_the_way_is_waited_for_if_it_is_lost_otherwise_and_only_then(latest_s: float, waits: bool) -> None:
    assert waited_for_s((1.005, latest_s)) == (1.005 if waits else -math.inf)


def test_nobody_is_waited_for_who_is_there_before_the_iteration_starts_and_has_time() -> None:
    assert waited_for_s((0.99, 2.0)) == -math.inf


def test_nobody_is_waited_for_whose_launch_takes_too_long() -> None:
    assert waited_for_s((1.005, 1.014), lag_s=0.008) == 1.005
    assert waited_for_s((1.005, 1.014), lag_s=0.010) == -math.inf


def test_nobody_is_waited_for_at_the_cost_of_a_promise() -> None:
    assert waited_for_s((1.005, 1.02), bearable_s=1.019) == 1.005  # it starts at 1.008 and takes 10 ms
    assert waited_for_s((1.005, 1.02), bearable_s=1.017) == -math.inf


def test_whoever_is_waited_for_waits_for_others_only_while_it_can() -> None:
    assert waited_for_s((1.005, 1.02), (1.012, 1.03)) == 1.012
    assert waited_for_s((1.005, 1.014), (1.012, 1.03)) == 1.005


def test_what_a_promise_bears_is_until_it_could_no_longer_be_in_time() -> None:
    jobs = JobTable()
    jobs.add("decodes", deadline_s=-1.0, due_base_s=0.9, tpot_s=0.1, prompt_left=0, context=100, generated=2, output=9,
             guaranteed=True)  # fmt: skip
    coef = machine_of(H200).coef
    assert bearable_s(jobs.rows, coef, 1.0, 0.04) == pytest.approx(1.1 - 0.04)
    jobs.add("effort", deadline_s=1.045, tpot_s=0.1, prompt_left=20, output=9, guaranteed=False)
    assert bearable_s(jobs.rows, coef, 1.0, 0.04) == pytest.approx(1.1 - 0.04)
    jobs.add("waits", deadline_s=1.05, tpot_s=0.1, prompt_left=20, output=9, guaranteed=True)
    assert bearable_s(jobs.rows, coef, 1.0, 0.04) == pytest.approx(1.05 - 0.04)
    jobs["waits"]["deadline_s"] = 1.03  # waiting is not what makes it late
    assert bearable_s(jobs.rows, coef, 1.0, 0.04) == pytest.approx(1.1 - 0.04)
