from pathlib import Path

import msgspec
import numpy as np
import pytest

from slosgate.bench import scenarios
from slosgate.bench.errors import InputError
from slosgate.bench.load import Load, offer
from slosgate.engines import profiles
from slosgate.engines.sim import systems
from slosgate.engines.sim.cluster import simulate
from slosgate.engines.sim.systems import Call, Offered, Settings
from slosgate.traces.records import Stage
from slosgate.traces.sources import Places
from tests.traces.real import no_places, real_places

SIX = ["chatbot", "coder", "summarizer", "mixed", "tool-calling", "reasoning"]
H200, LLAMA = profiles.load("h200-opt-13b"), profiles.load("h200-llama-3.1-8b")


def offered(
    name: str, places: Places, *, rate: float = 4.0, seed: int = 0, scaling: str = "stretch", window: int = 16384,
    seconds: float | None = None,
) -> Load:  # fmt: skip
    """The load of a scenario on a model with such a window."""
    profile = msgspec.structs.replace(H200, max_model_tokens=window)
    return offer(scenarios.load(name), profile, rate, seed=seed, scaling=scaling, seconds=seconds, places=places)


def test_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown scenario 'chat': choose one of chatbot, coder"):
        scenarios.load("chat")


@pytest.mark.parametrize(
    ("name", "count", "prompt", "output"),
    [
        ("chatbot", 1391, (763.2, 1592, 424), (267.4, 620, 161)),
        ("coder", 559, (847.1, 2010, 617), (27.3, 233, 48)),
        ("summarizer", 5145, (1333.5, 1947, 445), (203.5, 1509, 234)),
    ],
)
def test_real_slices_are_those_of_the_paper(
    name: str, count: int, prompt: tuple[float, ...], output: tuple[float, ...], tmp_path: Path
) -> None:
    kind = scenarios.load(name).classes[name]
    lengths = [r.stages[0] for r in scenarios.pool(name, kind, 0, 2048, real_places(tmp_path)).lengths]
    prompts, outputs = np.array([[s.prompt_tokens, s.output_tokens] for s in lengths]).T

    def figures(values: np.ndarray) -> tuple[float, ...]:
        return round(float(values.mean()), 1), round(float(np.percentile(values, 99))), round(float(values.std()))

    assert len(lengths) == count
    assert figures(prompts) == prompt
    assert figures(outputs) == output


@pytest.mark.parametrize("name", SIX)
def test_every_scenario_runs_without_any_data_and_says_so(name: str, tmp_path: Path) -> None:
    load = offered(name, no_places(tmp_path))
    assert load.record["trace_source"] == "generated"
    assert all("fitted to" in p["detail"] and p["citation"] for p in load.record["provenance"])
    assert load.record["achieved"]["rate_rps"] == pytest.approx(4.0, rel=0.01)
    arrivals = [one.arrival_s for one in load.requests]
    assert arrivals == sorted(arrivals)
    assert len(arrivals) > 500


@pytest.mark.parametrize(("name", "prompt", "output", "cv"), [("chatbot", 763, 267, 1.0), ("coder", 847, 27, 7.4)])
def test_generated_slices_are_like_the_real_ones(
    name: str, prompt: float, output: float, cv: float, tmp_path: Path
) -> None:
    loads = [offered(name, no_places(tmp_path), seed=seed) for seed in range(10)]
    calls = [one.calls[0] for load in loads for one in load.requests]
    assert np.mean([c.prompt_tokens for c in calls]) == pytest.approx(prompt, rel=0.15)
    assert np.mean([c.output_tokens for c in calls]) == pytest.approx(output, rel=0.3)
    assert np.mean([load.record["achieved"]["iat_cv"] for load in loads]) == pytest.approx(cv, rel=0.3)


def test_same_seed_same_load_other_seed_other_load(tmp_path: Path) -> None:
    first, again, other = (offered("mixed", no_places(tmp_path), seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first.requests != other.requests


def test_mixed_keeps_the_shares_of_its_classes_at_any_rate(tmp_path: Path) -> None:
    slow, fast = (offered("mixed", no_places(tmp_path), rate=rate) for rate in (2.0, 9.0))
    assert [one.slo_class for one in slow.requests] == [one.slo_class for one in fast.requests]
    assert {one.slo_class for one in slow.requests} == {"chatbot", "coder", "summarizer"}


@pytest.mark.parametrize("scaling", ["thin", "superpose", "resample"])
def test_other_ways_to_scale_reach_the_rate_and_are_recorded(scaling: str, tmp_path: Path) -> None:
    rate = 2.5 if scaling == "thin" else 7.0
    record = offered("chatbot", no_places(tmp_path), rate=rate, scaling=scaling, seed=3).record
    assert record["achieved"]["rate_rps"] == pytest.approx(rate, rel=0.1)
    assert (record["scaling"], record["seed"], record["asked_rps"]) == (scaling, 3, rate)


def test_a_longer_run_starts_the_slice_over(tmp_path: Path) -> None:
    places = no_places(tmp_path)
    once = offered("coder", places, rate=2.0)
    twice = offered("coder", places, rate=2.0, seconds=2 * once.seconds)
    assert len(twice.requests) == 2 * len(once.requests)
    assert twice.record["achieved"]["rate_rps"] == pytest.approx(2.0)


def test_every_call_has_its_own_slo(tmp_path: Path) -> None:
    loop = next(one for one in offered("tool-calling", no_places(tmp_path)).requests if len(one.calls) > 2)
    assert [call.tpot_slo_s for call in loop.calls] == [0.05] * (len(loop.calls) - 1) + [0.1]
    call = loop.calls[1]
    assert call.cached_tokens > 0
    assert call.ttft_slo_s == pytest.approx(3 * H200.zero_load_ttft_s(call.prompt_tokens, call.cached_tokens))


def test_a_slowdown_is_of_what_an_idle_replica_takes_behind_the_context_that_is_cached() -> None:
    new, cached = 21_802, 92_992
    slo = scenarios.StageSlo(ttft_slowdown=1.05, tpot_ms=50)
    slo_s = slo.ttft_s(Stage(prompt_tokens=new, output_tokens=1, cached_tokens=cached), LLAMA)
    loop = Offered(0.0, (Call(cached, 1), Call(new, 1, slo_s, 0.05, cached_tokens=cached)), id="loop")
    for system in ("vllm", "slosgate-ar"):
        second = simulate(systems.load(system)(Settings(LLAMA)), [loop]).jobs[1]
        took_s = float(second.token_s[0]) - second.arrival_s
        assert second.cached_tokens > 0.99 * cached
        assert 0.9 * slo_s < took_s <= slo_s


def test_a_response_goes_on_in_the_call_of_its_thinking_at_its_own_pace(tmp_path: Path) -> None:
    (call,) = offered("reasoning", no_places(tmp_path)).requests[0].calls
    assert 0 < call.switch_at < call.output_tokens
    assert (call.tpot_slo_s, call.next_tpot_slo_s) == (0.05, 0.1)


def test_requests_beyond_the_models_window_are_dropped_or_the_run_refused(tmp_path: Path) -> None:
    load = offered("reasoning", no_places(tmp_path), rate=1.0, window=4096)
    assert max(call.prompt_tokens + call.output_tokens for one in load.requests for call in one.calls) <= 4096
    assert load.record["dropped"] > 0
    with pytest.raises(InputError, match="no request of s1k fits a window of 256 tokens"):
        offered("reasoning", no_places(tmp_path), rate=1.0, window=256)


@pytest.mark.parametrize(
    ("rate", "scaling", "complaint"),
    [(0.0, "stretch", "rate must be"), (1.0, "kth", "unknown scaling"), (99.0, "thin", "thin only lowers the rate")],
)
def test_bad_rates_and_methods_are_refused(rate: float, scaling: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        offered("coder", no_places(tmp_path), rate=rate, scaling=scaling)
