"""How long arrivals can wait, and whom the next iteration waits for."""

import numpy as np
import pytest

from slosgate.planner.arrivals import Coming, Next, Patience, awaited_s
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


def waits(ready_s: float, latest_s: float, bearable_s: float = np.inf) -> bool:
    """Whether an iteration of 40 ms that could start at 1 s waits for a request that is ready and must start then."""
    columns = (np.array([each]) for each in (ready_s, latest_s, DECIDE_S, 0.02))
    return bool(awaited_s(Coming(*columns), Next(1.0, 1.0, 0.04, bearable_s), DECIDE_S) == ready_s)


@pytest.mark.parametrize(
    ("latest_s", "waited_for"),
    [
        (1.007, False),  # too late even for the one that waits for it
        (1.009, True),
        (1.042, True),
        (1.044, False),  # the iteration after the next will do
    ],
)
def test_who_is_on_the_way_is_waited_for_if_it_is_lost_otherwise_and_only_then(
    latest_s: float, waited_for: bool
) -> None:
    assert waits(1.005, latest_s) == waited_for


def test_nobody_is_waited_for_who_is_there_before_the_iteration_starts_and_has_time() -> None:
    assert not waits(0.99, 2.0)


def test_nobody_is_waited_for_at_the_cost_of_a_promise() -> None:
    assert waits(1.005, 1.02, bearable_s=1.03)
    assert not waits(1.005, 1.02, bearable_s=1.02)
