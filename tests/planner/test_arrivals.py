"""How long arrivals can wait, and whom the next iteration waits for."""

import pytest

from slosgate.planner.arrivals import Patience, awaited
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
    # Of 40 ms and possible from 1 s on; the request is there 5 ms after that.
    assert awaited(1.005, latest_s, 1.0, 0.04, DECIDE_S) == waits


def test_nobody_is_waited_for_who_is_there_before_the_iteration_starts_and_has_time() -> None:
    assert not awaited(0.99, 2.0, 1.0, 0.04, DECIDE_S)
