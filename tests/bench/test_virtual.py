"""Runs in virtual time that are abandoned once too many requests have missed."""

from __future__ import annotations

import random

import pytest

from slosgate.bench import virtual
from slosgate.bench.attainment import PAPER, attained, collect
from slosgate.bench.load import Load
from slosgate.engines import profiles
from slosgate.engines.sim.systems import Call, Offered, Settings

H200 = profiles.load("h200-opt-13b")


def load(rate_rps: float) -> Load:
    """150 requests, half of them two calls."""
    draw, now_s, offered = random.Random(5), 0.0, []
    for n in range(150):
        now_s += draw.expovariate(rate_rps)
        prompt = draw.randint(50, 1500)
        call = Call(prompt, draw.randint(1, 200), 3 * H200.zero_load_ttft_s(prompt), 0.05)
        offered.append(Offered(now_s, (call, call)[n % 2 :], "c"))
    return Load(tuple(offered), now_s, "random")


@pytest.mark.parametrize("system", ["vllm", "slosgate-ar"])
@pytest.mark.parametrize("rate_rps", [6.0, 30.0])
def test_an_abandoned_run_has_counted_only_what_misses_in_the_end(system: str, rate_rps: float) -> None:
    whole = virtual.simulate(load(rate_rps), system, Settings(H200))
    misses = int((~attained(collect(whole.outcomes), PAPER)).sum())
    assert virtual.simulate(load(rate_rps), system, Settings(H200), misses_allowed=misses).missed is None
    for allowed in range(5, misses, 40):
        abandoned = virtual.simulate(load(rate_rps), system, Settings(H200), misses_allowed=allowed)
        if abandoned.missed is None:  # the last ones missed after the last look
            assert collect(abandoned.outcomes).token_s.tolist() == collect(whole.outcomes).token_s.tolist()
        else:
            assert allowed < abandoned.missed <= misses


def test_a_hopeless_run_is_abandoned_long_before_its_end() -> None:
    abandoned = virtual.simulate(load(30.0), "vllm", Settings(H200), misses_allowed=15)
    assert abandoned.missed is not None
    whole = virtual.simulate(load(30.0), "vllm", Settings(H200))
    assert abandoned.replicas["iterations"] < 0.7 * whole.replicas["iterations"]
