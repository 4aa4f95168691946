import itertools
import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slosgate.bench import virtual
from slosgate.bench.attainment import PAPER, attained, collect
from slosgate.bench.bound import attainable, bound_rps_per_gpu
from slosgate.bench.load import Load
from slosgate.engines import profiles
from slosgate.engines.sim.systems import Call, Offered, Settings
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile


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


def offered(
    arrival_s: float, prompt: int, output: int = 1, ttft_slo_s: float = 1.0, tpot_slo_s: float = 0.1
) -> Offered:
    return Offered(arrival_s, (Call(prompt, output, ttft_slo_s, tpot_slo_s),), "c")


def bound_of(
    kinds: list[Offered], hardware: HardwareProfile, *, target: float = 0.99, acceptance: float = 0.0
) -> float:
    """The bound of 400 requests: these in turn, at even distances."""

    def load_at(rate_rps: float) -> Load:
        spread = (Offered(n / rate_rps, kinds[n % len(kinds)].calls, "c") for n in range(400))
        return Load(tuple(spread), 400 / rate_rps, "by hand")

    return bound_rps_per_gpu(load_at, hardware, target=target, acceptance=acceptance)


def test_prefill_work_alone_sets_the_rate() -> None:
    assert bound_of([offered(0, 100)], PREFILL) == pytest.approx(10.0, rel=0.1)


def test_a_tenth_may_be_declined_and_it_is_the_costliest() -> None:
    nine_small_one_large = [offered(0, 10, ttft_slo_s=0.2)] * 9 + [offered(0, 900, ttft_slo_s=0.2)]
    assert bound_of(nine_small_one_large, PREFILL, target=0.9) == pytest.approx(1 / 0.009, rel=0.1)


def test_memory_limits_how_many_share_an_iteration_and_drafts_help() -> None:
    # 100 decode steps at about 160 tokens of context; 1,600 tokens of memory: ten share a step of 10 ms.
    tight, kinds = (
        profile(Term(constant_s=0.01), kv_blocks=100),
        [offered(0, 109, output=101, ttft_slo_s=0.2, tpot_slo_s=0.02)],
    )
    plain = bound_of(kinds, tight)
    assert plain == pytest.approx(10.0, rel=0.1)
    assert bound_of(kinds, tight, acceptance=0.7) > 2 * plain


def test_every_call_of_a_request_counts() -> None:
    twice = [Offered(0, (Call(100, 1, 1.0, 0.1), Call(100, 1, 1.0, 0.1, cached_tokens=100)), "c")]
    assert bound_of(twice, PREFILL) == pytest.approx(5.0, rel=0.1)


def test_a_call_that_comes_later_is_due_later() -> None:
    def calls(gap_s: float) -> list[Offered]:
        return [Offered(0, (Call(100, 1, 1.0, 0.1, gap_s=gap_s), Call(1000, 1, 1.0, 0.1)), "c")] * 4

    assert attainable(calls(0.0), PREFILL) == 0.25  # 4.4 s of work, due within 2.1 s
    assert attainable(calls(3.0), PREFILL) == 1.0


def test_the_prompt_of_who_arrives_later_is_computed_later() -> None:
    apart = [offered(0.9 * n, 400) for n in range(6)]
    assert attainable(apart, PREFILL) == 1.0


def test_what_a_request_cannot_begin_before_counts() -> None:
    slow = msgspec.structs.replace(PREFILL, request_overhead_s=0.5)
    assert attainable([offered(0, 600)], PREFILL) == 1.0
    assert attainable([offered(0, 600)], slow) == 0.0


def test_a_burst_loses_what_no_order_can_save() -> None:
    # Four prompts of 0.4 s each, all due within 1.05 s: two fit.
    burst = [offered(0, 400)] * 4
    assert attainable(burst, PREFILL) == 0.5
    assert attainable(burst, PREFILL, replicas=2) == 1.0
    assert attainable(burst + [offered(5, 400)] * 4, PREFILL) == 0.5


def test_decoding_takes_time_from_a_burst() -> None:
    # Each has to have decoded 20 tokens of 20 ms within 3.15 s.
    slow = profile(Term(per_new_token_s=0.02), kv_blocks=10**6)
    assert attainable([offered(0, 1, output=21)] * 10, slow) == pytest.approx(0.7)


def test_requests_without_slo_have_no_bound() -> None:
    assert bound_of([offered(0, 100, ttft_slo_s=math.inf, tpot_slo_s=math.inf)], PREFILL) == math.inf


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=6))
def test_no_order_of_the_prompts_beats_the_bound(jobs: list[tuple[int, int, int]]) -> None:
    requests = sorted((offered(a, p * 1000, ttft_slo_s=s) for a, p, s in jobs), key=lambda r: r.arrival_s)
    best = 0
    for order in itertools.permutations(requests):
        now_s, in_time = 0.0, 0
        for r in order:
            end_s = max(now_s, r.arrival_s) + r.calls[0].prompt_tokens * 0.001
            if end_s <= r.arrival_s + 1.05 * r.calls[0].ttft_slo_s:
                now_s, in_time = end_s, in_time + 1
        best = max(best, in_time)
    assert best / len(requests) <= attainable(requests, PREFILL) + 1e-9


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    burst=st.integers(1, 12),
    pause_s=st.sampled_from([0.3, 1.0, 4.0]),
    prompt=st.sampled_from([30, 300, 1000]),
    output=st.sampled_from([1, 10, 80]),
    hardware=st.sampled_from(["a100-opt-13b", "a100-toolllama-7b", "h200-llama-3.1-8b"]),
)
def test_no_simulated_system_attains_more_than_the_bound(
    seed: int, burst: int, pause_s: float, prompt: int, output: int, hardware: str
) -> None:
    draw, machine = random.Random(seed), profiles.load(hardware)
    requests = [
        Offered(arrival, tuple(_call(draw, machine, prompt, output, n) for n in range(draw.choice([1, 1, 3]))), "c")
        for arrival in (pause_s * n for n in range(6))
        for _ in range(draw.randint(1, burst))
    ]
    load = Load(tuple(requests), 6 * pause_s, "random")
    for system, replicas in (("vllm", 1), ("vllm-v0", 1), ("sarathi", 1), ("slosgate-ar", 1), ("distserve", 2)):
        served = virtual.simulate(load, system, Settings(machine, replicas))
        share = attained(collect(served.outcomes), PAPER).mean()
        assert share <= attainable(requests, machine, replicas) + 1e-9, system


def _call(draw: random.Random, machine: HardwareProfile, prompt: int, output: int, index: int) -> Call:
    tokens = draw.randint(1, prompt)
    return Call(
        prompt_tokens=tokens,
        output_tokens=draw.randint(1, output),
        ttft_slo_s=draw.choice([1.5, 3.0, 5.0]) * machine.zero_load_ttft_s(tokens),
        tpot_slo_s=draw.choice([0.02, 0.05, 0.1]),
        cached_tokens=index * 16,
    )


def test_a_long_prompt_takes_at_least_what_its_pairs_do() -> None:
    long = profiles.load("h200-llama-3.1-8b")

    def share(ttft_slo_s: float) -> float:
        call = Call(prompt_tokens=60_000, cached_tokens=40_000, ttft_slo_s=ttft_slo_s, output_tokens=1, tpot_slo_s=1.0)
        return attainable([Offered(id="a", arrival_s=0.0, calls=(call,))], long)

    alone_s = long.zero_load_ttft_s(60_000, 40_000)
    assert share(alone_s) == 1.0
    assert share(0.9 * alone_s) == 0.0
