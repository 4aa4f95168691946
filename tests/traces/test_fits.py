"""Generated traces held against the real ones they stand in for."""

from pathlib import Path

import numpy as np
import pytest

from slosgate.traces import fit, sources
from slosgate.traces.arrivals import Drifting
from slosgate.traces.errors import TraceError
from slosgate.traces.fitting import fit_drifting, fit_lengths
from slosgate.traces.lengths import summarize
from slosgate.traces.records import TraceRequest
from slosgate.traces.windows import Slice, arrival_times
from tests.traces.real import real_places

SEEDS = range(20)


@pytest.mark.parametrize("name", ["azure-code-2023", "azure-conv-2023"])
@pytest.mark.parametrize("figure", ["rate_rps", "iat_cv", "peak_10s", "idc_10s"])
def test_generated_arrivals_are_within_a_fifth_of_the_real_ones(name: str, figure: str) -> None:
    fitted = fit.load(name)
    mean = np.mean([getattr(drawn, figure) for drawn in fit.check(fitted, SEEDS)])
    assert mean == pytest.approx(getattr(fitted.real, figure), rel=0.2)


@pytest.mark.parametrize(("name", "rate", "cv", "peak", "idc"), [("azure-code-2023", 2.57, 13.2, 12.8, 72)])
def test_the_real_figures_kept_with_the_fit_are_the_traces_own(
    name: str, rate: float, cv: float, peak: float, idc: float
) -> None:
    real = fit.load(name).real
    assert real is not None
    assert (real.rate_rps, real.iat_cv, real.peak_10s, real.idc_10s) == pytest.approx((rate, cv, peak, idc), rel=0.02)


@pytest.mark.parametrize(
    "name", ["azure-code-2023", "azure-conv-2023", "arxiv-summarization", "sharegpt", "s1k", "sharegpt-first-turn"]
)
def test_generated_lengths_are_like_the_real_ones(name: str, tmp_path: Path) -> None:
    real = columns(sources.load(name, real_places(tmp_path)).requests)
    made = columns(sources.load(name, real_places(tmp_path), generated=True).requests)
    for wanted, found in zip(real, made, strict=True):
        a, b = summarize(wanted), summarize(found)
        assert (b.mean, b.p50, b.p90) == pytest.approx((a.mean, a.p50, a.p90), rel=0.1)
    assert np.corrcoef(made)[0, 1] == pytest.approx(np.corrcoef(real)[0, 1], abs=0.12)


def columns(requests: tuple[TraceRequest, ...]) -> np.ndarray:
    """Prompts, then the outputs of each stage."""
    return np.array([[r.stages[0].prompt_tokens, *(s.output_tokens for s in r.stages)] for r in requests]).T


def test_generated_tool_loops_are_like_the_real_ones(tmp_path: Path) -> None:
    def calls(generated: bool) -> tuple[float, float, float]:
        requests = sources.load("toolbench", real_places(tmp_path), generated=generated).requests
        stages = [s for r in requests for s in r.stages]
        prompts = np.mean([s.cached_tokens + s.prompt_tokens for s in stages])
        return len(stages) / len(requests), float(prompts), float(np.mean([s.output_tokens for s in stages]))

    assert calls(generated=True) == pytest.approx(calls(generated=False), rel=0.25)


def test_a_generated_trace_says_so_and_names_its_fit(tmp_path: Path) -> None:
    trace = sources.load("azure-code-2023", sources.Places(folder=None, cache=tmp_path, offline=True), seed=4)
    assert trace.provenance.source == "generated"
    assert "fitted to 8,819 requests" in trace.provenance.detail
    assert "seed 4" in trace.provenance.detail
    times = arrival_times(trace.requests)
    assert (np.diff(times) >= 0).all()


def test_a_fit_recovers_the_process_it_was_made_from() -> None:
    fitted = fit.load("azure-conv-2023")
    assert isinstance(fitted.arrivals, Drifting)
    times = fitted.arrivals.draw(20_000.0, np.random.default_rng(3))
    again = fit_drifting(times, 20_000.0)
    assert again.rate_rps == pytest.approx(len(times) / 20_000)
    assert again.log_sd == pytest.approx(fitted.arrivals.log_sd, rel=0.3)
    assert again.gamma_k == pytest.approx(fitted.arrivals.gamma_k, rel=0.1)

    requests = fitted.requests(times[:5000], np.random.default_rng(3))
    grid = fit_lengths(requests)
    assert grid.columns["prompt_tokens"][8] == pytest.approx(1020, rel=0.1)


def test_without_arrivals_there_is_nothing_to_check() -> None:
    with pytest.raises(TraceError, match="s1k has lengths only"):
        fit.check(fit.load("s1k"), SEEDS)
    with pytest.raises(TraceError, match="no generator is fitted for 'mooncake'"):
        fit.load("mooncake")


def test_a_generated_slice_lasts_as_long_as_the_real_one(tmp_path: Path) -> None:
    places = sources.Places(folder=None, cache=tmp_path, offline=True)
    trace = sources.load("azure-conv-2023", places, part=Slice(900, 1200, rate_rps=5.2, peak_10s=1.5))
    times = arrival_times(trace.requests)
    assert times[-1] < 300
    assert len(times) / 300 == pytest.approx(5.2, rel=0.1)
