"""Prompts of tens of thousands of tokens on simulated replicas, and what is told of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from slosgate.engines import profiles
from slosgate.engines.messages import IterationReport
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings
from slosgate.planner.perf_model import PerfModel, pairs_of

LONG = profiles.load("h200-llama-3.1-8b")
ALONE_S = LONG.zero_load_ttft_s(100_000)


def one(ttft_slo_s: float) -> Offered:
    call = Call(prompt_tokens=100_000, output_tokens=3, ttft_slo_s=ttft_slo_s, tpot_slo_s=0.05)
    return Offered(id="a", arrival_s=0.0, calls=(call,))


@pytest.mark.parametrize("system", ["vllm", "slosgate-ar", "edf", "qoserve", "scorpio", "jitserve"])
def test_a_long_prompt_takes_its_zero_load_ttft(system: str) -> None:
    job = simulate(systems.load(system)(Settings(LONG)), [one(2 * ALONE_S)]).jobs[0]
    assert float(job.token_s[0]) == pytest.approx(ALONE_S, rel=0.1)


@pytest.mark.parametrize(("slack", "admission"), [(1.2, "guaranteed"), (0.95, "best-effort")])
def test_it_is_promised_what_it_can_be(slack: float, admission: str) -> None:
    job = simulate(systems.load("slosgate-ar")(Settings(LONG)), [one(slack * ALONE_S)]).jobs[0]
    assert job.admission == admission
    assert (float(job.token_s[0]) <= slack * ALONE_S) == (admission == "guaranteed")


def test_parts_of_before_and_after_understand_each_other() -> None:
    report = IterationReport(0.8, 8192, 96_282, 1, 0, pairs_of(88_090, 8192))
    told: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(report))
    before = msgspec.msgpack.decode(msgspec.msgpack.encode(told[:5]), type=IterationReport)
    assert before == IterationReport(0.8, 8192, 96_282, 1, 0)
    assert LONG.perf.iteration_s(*report.size) == pytest.approx(0.812, rel=0.05)  # as an H200 took
    learned = PerfModel(LONG.perf.terms, LONG.perf.terms)
    for model in (LONG.perf, learned):
        assert msgspec.json.decode(msgspec.json.encode(model), type=PerfModel) == model
    assert "decoding" not in msgspec.json.decode(msgspec.json.encode(LONG.perf))
