"""Prompts of tens of thousands of tokens, most of whose time goes into what they attend to."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.planner.admission import admit
from slosgate.planner.controller import Arrival, ReplicaState, expected_ttft_s, place
from slosgate.planner.jobs import JobTable
from slosgate.planner.prefixes import Cached

LONG = profiles.load("h200-llama-3.1-8b")
ALONE_S = LONG.zero_load_ttft_s(100_000)


def without_pairs() -> float:
    terms = tuple(msgspec.structs.replace(term, per_pair_s=0.0) for term in LONG.perf.terms)
    perf = msgspec.structs.replace(LONG.perf, terms=terms)
    return msgspec.structs.replace(LONG, perf=perf).zero_load_ttft_s(100_000)


def idle(cached: int = 0) -> ReplicaState:
    return ReplicaState("a", LONG, JobTable(), LONG.kv_blocks, cached=Cached(cached))


def arrival(ttft_s: float, prompt_tokens: int = 100_000) -> Arrival:
    return Arrival("new", ttft_s=ttft_s, tpot_s=0.05, prompt_tokens=prompt_tokens, output_tokens=50)


def waiting(jobs: JobTable, name: str, *, tokens: int, due_s: float, behind: int = 0) -> None:
    jobs.add(name, deadline_s=due_s, tpot_s=math.inf, prompt_left=tokens, context=behind, output=1, guaranteed=False)


def test_a_long_prompt_takes_more_than_twice_as_long_as_its_tokens_alone() -> None:
    assert 2 * without_pairs() < ALONE_S


def test_a_promise_allows_for_what_a_prompt_attends_to() -> None:
    assert place(arrival(1.15 * ALONE_S), [idle()], 0.0).guaranteed
    refused = place(arrival(0.97 * ALONE_S), [idle()], 0.0)
    assert not refused.guaranteed
    assert refused.predicted_ttft_s == pytest.approx(ALONE_S, rel=0.05)


def test_what_a_prompt_has_cached_is_attended_to() -> None:
    few = arrival(10.0, prompt_tokens=100_000)
    behind_s = expected_ttft_s(few, idle(cached=98_000)) - LONG.request_overhead_s
    assert behind_s == pytest.approx(LONG.perf.chunk_s(2000, 98_000))
    assert behind_s > 3 * LONG.perf.chunk_s(2000)


def test_long_prompts_are_admitted_by_what_all_of_them_attend_to() -> None:
    jobs = JobTable()
    for n in range(3):
        waiting(jobs, str(n), tokens=10_000, behind=80_000, due_s=2.4)
    own_s = LONG.perf.chunk_s(10_000, 80_000)
    assert 2 * own_s < 2.3 < 2.5 * own_s
    admitted = admit(jobs.rows, np.ones(3, np.bool_), LONG, 0.0, LONG.kv_blocks)
    assert admitted.accepted.sum() == 2
