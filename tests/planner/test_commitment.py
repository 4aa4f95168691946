"""Whether the next iteration is chosen ahead: what arrivals would lose by it against what the device would."""

import numpy as np
import pytest

from planner.commitment import Patience, awaited, puts_off
from tests.planner.cases import H200

DECIDE_S = 0.003


def patience(*waits_s: float) -> np.ndarray:
    return np.array(waits_s)


def test_nobody_is_waited_for_who_could_wait_for_both_iterations_anyway() -> None:
    assert not puts_off(patience(0.2, 0.3), 0.02, 0.02, DECIDE_S, 1.0)
    assert not puts_off(patience(), 0.02, 0.02, DECIDE_S, 1.0)


def test_an_iteration_is_put_off_for_who_can_wait_for_one_but_not_for_two() -> None:
    # Of 20 ms, those who arrive more than 10 ms before the end are lost by choosing ahead, and nobody else is.
    assert puts_off(patience(0.03), 0.02, 0.02, DECIDE_S, 1.0)


def test_the_impatient_must_be_many_enough_to_pay_for_the_pause() -> None:
    one_of_ten = patience(0.03, *[0.5] * 9)
    assert not puts_off(one_of_ten, 0.02, 0.02, DECIDE_S, 1.0)
    assert puts_off(one_of_ten, 0.02, 0.02, DECIDE_S, 0.3)  # a pause costs little when decodes are far ahead


def test_who_is_lost_either_way_is_no_reason_to_wait() -> None:
    assert not puts_off(patience(0.001), 0.02, 0.02, DECIDE_S, 1.0)


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
