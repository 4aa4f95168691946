"""How long an iteration may prefill."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slosgate.engines import profiles
from slosgate.planner.arrivals import NO_ARRIVALS
from slosgate.planner.jobs import JobTable
from slosgate.planner.machine import coefficients
from slosgate.planner.pacing import LONGEST, SHORTEST, balanced_s, rate_share, rated_s
from slosgate.planner.slack import next_batch

A100 = profiles.load("a100-opt-13b")
COEF = coefficients(A100.perf)


def took_s(patience_s: np.ndarray, *deadlines_s: float) -> float:
    """How long the first iteration is that serves prompts of 2,000 tokens."""
    jobs = JobTable()
    for number, deadline_s in enumerate(deadlines_s):
        jobs.add(str(number), deadline_s=deadline_s, tpot_s=0.1, prompt_left=2000, output=50, guaranteed=False)
    return next_batch(jobs.rows, A100, 0.0, 3000, patience_s).duration_s


@pytest.mark.parametrize("name", profiles.names())
@pytest.mark.parametrize("share", [SHORTEST, 0.95, LONGEST])
def test_an_iteration_of_that_length_prefills_at_that_share_of_the_best_rate(name: str, share: float) -> None:
    coef = coefficients(profiles.load(name).perf)
    assert rate_share(coef, rated_s(coef, share), 0.0) == pytest.approx(share)


@given(
    patience_s=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=40),
    lost_s=st.floats(1e-4, 0.1),
    other_s=st.floats(1e-3, 0.5),
)
def test_no_other_length_loses_less_time_and_arrivals(patience_s: list[float], lost_s: float, other_s: float) -> None:
    ascending = np.sort(patience_s)

    def loss(tau_s: float) -> float:
        return float((lost_s + np.maximum(0.0, tau_s - ascending).mean()) / tau_s)

    shortest_s, longest_s = rated_s(COEF, SHORTEST), rated_s(COEF, LONGEST)
    best_s = balanced_s(COEF, ascending, lost_s)
    assert shortest_s <= best_s <= longest_s
    assert loss(best_s) <= loss(min(longest_s, max(shortest_s, other_s))) + 1e-9


def test_iterations_are_long_for_patient_arrivals_and_short_for_hurried_ones() -> None:
    for patience_s, expected_s in (
        (NO_ARRIVALS, rated_s(COEF, LONGEST)),
        (np.full(9, 0.3), rated_s(COEF, LONGEST)),
        (np.full(9, 0.05), 0.05),
        (np.array([0.01] * 8 + [0.3]), rated_s(COEF, SHORTEST)),
    ):
        assert took_s(patience_s, 3.0) == pytest.approx(expected_s, rel=0.01)


def test_they_are_long_when_only_so_all_who_wait_get_their_first_tokens_in_time() -> None:
    hurried, both_s = np.full(9, 0.01), A100.perf.iteration_s(4000, 4000, 2)
    assert took_s(hurried, both_s * 1.05, both_s * 1.05) == pytest.approx(rated_s(COEF, LONGEST), rel=0.01)
    assert took_s(hurried, both_s * 1.2, both_s * 1.2) == pytest.approx(rated_s(COEF, SHORTEST), rel=0.01)
