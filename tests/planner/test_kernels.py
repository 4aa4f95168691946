"""Due times, tiers and memory, by hand and by carrying them out."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slosgate.engines import profiles
from slosgate.planner.jobs import JobTable
from slosgate.planner.kernels import (
    Load,
    blocks_for,
    chunk_s,
    insert_sorted,
    iteration_s,
    load_s,
    pairs_of,
    peak_tokens,
    still_to_emit,
    tier_s,
    token_budget,
    token_due_s,
    with_chunk,
    with_decode,
)
from slosgate.planner.machine import coefficients
from slosgate.planner.perf_model import PerfModel
from tests.planner.cases import H200

COEF = coefficients(H200.perf)
LONG = profiles.load("h200-llama-3.1-8b")
LONG_COEF = coefficients(LONG.perf)


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
    assert with_decode(Load(10, 100, 2, 1, 7.0), job(), 3) == Load(14, 136, 3, 3, 7.0)
    assert with_decode(Load(10, 100, 2, 4, 0.0), job(), 3).drafts == 4
    assert load_s(COEF, Load(0, 0, 0, 0, 0.0)) == 0.0
    assert load_s(COEF, Load(1, 33, 1, 0, 0.0)) == pytest.approx(H200.perf.iteration_s(1, 33, 1))


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


def test_a_chunk_attends_to_all_before_it_and_on_average_to_half_of_itself() -> None:
    assert with_chunk(Load(2, 50, 2, 1, 10.0), 100, 20) == Load(22, 170, 3, 1, 10.0 + 100 * 20 + 20 * 20 / 2)
    whole, halves = Load(0, 0, 0, 0, 0.0), Load(0, 0, 0, 0, 0.0)
    for before in (0, 3000):
        halves = with_chunk(halves, before, 3000)
    assert with_chunk(whole, 0, 6000).pairs == halves.pairs
    assert chunk_s(LONG_COEF, 90_000, 6000) == pytest.approx(LONG.perf.chunk_s(6000, 90_000))
    assert LONG.perf.chunk_s(8192, 88_090) == pytest.approx(0.812, rel=0.05)  # as an H200 took for it


def test_an_iteration_that_only_decodes_has_terms_of_its_own_where_they_are_known() -> None:
    faster = tuple(msgspec.structs.replace(term, constant_s=term.constant_s / 5) for term in LONG.perf.terms)
    model = msgspec.structs.replace(LONG.perf, decoding=faster)
    coef = coefficients(model)
    for size in ((8, 9000, 8, 0, 0.0), (4000, 90_000, 9, 0, 1e8)):
        assert iteration_s(coef, *size) == pytest.approx(model.iteration_s(*size))
    assert model.iteration_s(8, 9000, 8) < 0.3 * LONG.perf.iteration_s(8, 9000, 8)
    assert model.chunk_s(4000) == LONG.perf.chunk_s(4000)


@settings(max_examples=150, deadline=None)
@given(
    per_pair_s=st.sampled_from([0.0, 1e-13, 8.03e-10, 1e-7]), tau_s=st.floats(0.001, 2.0),
    decodes=st.integers(0, 60), context=st.integers(0, 400_000), pairs=st.integers(0, 10**8),
    before=st.integers(0, 120_000),
)  # fmt: skip
def test_the_budget_behind_a_long_context_is_all_that_still_ends_in_time(
    per_pair_s: float, tau_s: float, decodes: int, context: int, pairs: int, before: int
) -> None:
    model = PerfModel(tuple(msgspec.structs.replace(term, per_pair_s=per_pair_s) for term in LONG.perf.terms))

    def takes_s(tokens: int) -> float:
        load = Load(decodes + tokens, context + tokens, decodes + 1, 0, pairs + pairs_of(before, tokens))
        return model.iteration_s(*load) if load.pairs else model.iteration_s(*load[:4], 1e-300)

    budget = int(token_budget(coefficients(model), tau_s, decodes, context, decodes + 1, 0, pairs, before))
    if budget >= 0:
        assert takes_s(budget) <= tau_s + 1e-8
    assert takes_s(max(0, budget + 1)) > tau_s - 1e-8


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
