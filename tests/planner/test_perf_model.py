import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slosgate.engines import profiles
from slosgate.planner.kernels import token_budget
from slosgate.planner.perf_model import PerfModel, Term

TWO_TERMS = PerfModel(
    terms=(
        Term(per_new_token_s=4e-5, constant_s=0.008),
        Term(per_context_token_s=2e-7, per_sequence_s=3e-5, constant_s=0.008),
    )
)


@pytest.mark.parametrize(
    ("new", "context", "sequences", "expected_ms"),
    [(1000, 1000, 1, 48.0), (64, 18_560, 64, 13.632), (1, 1, 1, 8.04)],
    ids=["compute bound", "memory bound", "constant"],
)
def test_the_slowest_term_decides(new: int, context: int, sequences: int, expected_ms: float) -> None:
    assert TWO_TERMS.iteration_s(new, context, sequences) * 1e3 == pytest.approx(expected_ms)


@settings(deadline=None)  # the first call compiles
@given(
    tau_s=st.floats(0.001, 0.5), context=st.integers(0, 200_000), sequences=st.integers(0, 300),
)  # fmt: skip
def test_the_budget_is_the_largest_batch_that_ends_in_time(tau_s: float, context: int, sequences: int) -> None:
    budget = int(token_budget(TWO_TERMS.coefficients(), tau_s, 0.0, context, sequences, 0.0))
    if budget >= 0:
        assert TWO_TERMS.iteration_s(budget, context + budget, sequences) <= tau_s + 1e-9
    assert TWO_TERMS.iteration_s(max(0, budget + 1), context + max(0, budget + 1), sequences) > tau_s - 1e-9


def test_zero_load_ttft_follows_the_h200_measurement() -> None:
    profile = profiles.load("h200-opt-13b")
    assert profile.zero_load_ttft_s(1024) == pytest.approx(0.0487, rel=0.05)


def test_an_unknown_profile_is_named_with_the_choices() -> None:
    with pytest.raises(profiles.UnknownProfile, match="h200-opt-13b"):
        profiles.load("h300")
