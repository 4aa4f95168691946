import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.bound import bound_rps_per_gpu, burst_attainment, steady_rps
from bench.load import Call, Load, Offered
from planner.perf_model import PerfModel, Term
from planner.profile import HardwareProfile


def profile(*terms: Term, kv_blocks: int = 1000) -> HardwareProfile:
    return HardwareProfile(
        name="p",
        model="m",
        device="d",
        perf=PerfModel(terms),
        kv_blocks=kv_blocks,
        max_model_tokens=4096,
        source="test",
    )


PREFILL = profile(Term(per_new_token_s=0.001))  # a thousand tokens a second


def offered(arrival_s: float, prompt: int, output: int = 1, ttft_slo_s: float = math.inf) -> Offered:
    return Offered(arrival_s, "c", (Call(prompt, output, ttft_slo_s, math.inf),))


def test_prefill_work_alone_sets_the_rate() -> None:
    assert steady_rps([offered(0, 100)], PREFILL, target=1.0) == pytest.approx(10.0)


def test_a_tenth_may_be_declined_and_it_is_the_costliest() -> None:
    nine_small_one_large = [offered(0, 10)] * 9 + [offered(0, 900)]
    assert steady_rps(nine_small_one_large, PREFILL, target=0.9) == pytest.approx(1 / 0.009)


def test_memory_limits_how_many_share_an_iteration() -> None:
    # 100 decode steps at about 160 tokens of context; 1,600 tokens of memory: ten share a step of 10 ms.
    tight = profile(Term(constant_s=0.01), kv_blocks=100)
    assert steady_rps([offered(0, 109, output=101)], tight, target=1.0) == pytest.approx(10.0, rel=0.01)


def test_drafts_raise_the_bound_where_memory_limits_it() -> None:
    tight = profile(Term(constant_s=0.01), kv_blocks=100)
    plain = steady_rps([offered(0, 109, output=101)], tight, target=1.0)
    assert steady_rps([offered(0, 109, output=101)], tight, target=1.0, acceptance=0.7) > 2 * plain


def test_a_burst_loses_what_no_order_can_save() -> None:
    # Four prompts of 0.4 s each, all due within 1.05 s: two fit.
    burst = [offered(0, 400, ttft_slo_s=1.0)] * 4
    assert burst_attainment(burst, PREFILL) == 0.5
    assert burst_attainment(burst, PREFILL, replicas=2) == 1.0
    twice = burst + [offered(5, 400, ttft_slo_s=1.0)] * 4
    assert burst_attainment(twice, PREFILL) == 0.5


def test_the_bound_is_the_smaller_of_the_two() -> None:
    def bursts(rate: float) -> Load:
        return Load(tuple(offered(10.0 * n / rate, 400, ttft_slo_s=1.0) for n in range(40)), 400 / rate, "by hand")

    smooth = bound_rps_per_gpu(bursts, PREFILL, target=0.9)
    assert smooth <= steady_rps(bursts(1.0).requests, PREFILL, target=0.9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=6))
def test_no_order_of_the_prompts_beats_the_burst_bound(jobs: list[tuple[int, int, int]]) -> None:
    requests = sorted((offered(a, p * 1000, ttft_slo_s=s) for a, p, s in jobs), key=lambda r: r.arrival_s)
    best = 0
    for order in itertools.permutations(requests):
        now_s, in_time = 0.0, 0
        for r in order:
            end_s = max(now_s, r.arrival_s) + r.calls[0].prompt_tokens * 0.001
            if end_s <= r.arrival_s + 1.05 * r.calls[0].ttft_slo_s:
                now_s, in_time = end_s, in_time + 1
        best = max(best, in_time)
    assert best / len(requests) <= burst_attainment(requests, PREFILL) + 1e-9
