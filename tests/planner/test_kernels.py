"""Due times, tiers and memory, by hand and by carrying them out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slosgate.planner.jobs import JobTable
from slosgate.planner.kernels import (
    Load,
    blocks_for,
    insert_sorted,
    load_s,
    peak_tokens,
    still_to_emit,
    tier_s,
    token_budget,
    token_due_s,
    with_decode,
)
from slosgate.planner.machine import coefficients
from tests.planner.cases import H200

COEF = coefficients(H200.perf)


def job(**changed: float) -> np.void:
    jobs = JobTable()
    jobs.add("x", deadline_s=1.0, tpot_s=0.1, prompt_left=0, context=32, generated=5, output=20, guaranteed=True)
    for name, value in changed.items():
        jobs["x"][name] = value
    record: np.void = jobs.rows[0]
    return record


def test_token_k_is_due_k_periods_after_the_base() -> None:
    assert token_due_s(job(), 7) == pytest.approx(1.7)
    assert token_due_s(job(due_base_s=3.0), 7) == pytest.approx(3.7)


@pytest.mark.parametrize(("k", "due_s"), [(9, 1.9), (10, 2.0), (11, 2.02), (15, 2.1)])
def test_the_pace_changes_after_the_last_token_of_the_first_tier(k: int, due_s: float) -> None:
    assert token_due_s(job(switch_at=10, next_tpot_s=0.02), k) == pytest.approx(due_s)


@pytest.mark.parametrize(("generated", "tier"), [(9, 0.1), (10, 0.1), (11, 0.02)])
def test_the_tier_changes_with_it(generated: int, tier: float) -> None:
    assert tier_s(job(generated=generated, switch_at=10, next_tpot_s=0.02)) == tier
    assert tier_s(job(generated=generated)) == 0.1


def test_who_outlives_its_estimate_has_one_token_to_go() -> None:
    assert [still_to_emit(job(generated=n)) for n in (5, 19, 20, 30)] == [15, 1, 1, 1]


def test_blocks_are_whole() -> None:
    assert [blocks_for(n, 16) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_a_decode_computes_its_token_and_its_drafts_behind_all_that_it_has() -> None:
    assert with_decode(Load(10, 100, 2, 1), job(), 3) == Load(14, 136, 3, 3)
    assert with_decode(Load(10, 100, 2, 4), job(), 3).drafts == 4
    assert load_s(COEF, Load(0, 0, 0, 0)) == 0.0
    assert load_s(COEF, Load(1, 33, 1, 0)) == pytest.approx(H200.perf.iteration_s(1, 33, 1))


@settings(max_examples=60, deadline=None)
@given(
    tau_s=st.floats(0.009, 0.2), new=st.integers(0, 200), context=st.integers(0, 50_000), sequences=st.integers(1, 200)
)
def test_the_budget_is_all_that_still_ends_in_time(tau_s: float, new: int, context: int, sequences: int) -> None:
    budget = token_budget(COEF, tau_s, new, context, sequences, 0)
    if budget < 0:
        assert H200.perf.iteration_s(new, context, sequences) > tau_s
    else:
        more = int(budget)
        assert H200.perf.iteration_s(new + more, context + more, sequences) <= tau_s + 1e-9
        assert H200.perf.iteration_s(new + more + 1, context + more + 1, sequences) > tau_s - 1e-9


@settings(max_examples=60, deadline=None)
@given(
    residents=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 100)), max_size=6),
    rem=st.integers(1, 30),
    ctx=st.integers(1, 100),
)
def test_the_peak_is_the_most_that_is_held_on_the_way(residents: list[tuple[int, int]], rem: int, ctx: int) -> None:
    everybody = [*residents, (rem, ctx)]
    held = [
        sum(context + 7.5 + t for left, context in everybody if left >= t)  # blocks of 16: on average half a block each
        for t in range(1, max(left for left, _ in everybody) + 1)
    ]
    remaining, context = np.zeros(len(everybody), np.int64), np.zeros(len(everybody), np.int64)
    for count, (left, tokens) in enumerate(residents):
        insert_sorted(remaining, context, count, left, tokens)
    assert remaining[: len(residents)].tolist() == sorted((left for left, _ in residents), reverse=True)
    assert peak_tokens(remaining, context, len(residents), rem, ctx, 16) == pytest.approx(max(held))


def test_nothing_is_due_without_an_slo() -> None:
    assert token_due_s(job(due_base_s=1.0, tpot_s=math.inf), 3) == math.inf
