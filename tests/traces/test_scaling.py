import numpy as np
import pytest

from slosgate.traces.arrivals import Poisson
from slosgate.traces.burstiness import burstiness
from slosgate.traces.errors import TraceError
from slosgate.traces.fit import load
from slosgate.traces.scaling import METHODS, Scaled, repeat

SPAN_S = 600.0


@pytest.fixture(scope="module")
def bursty() -> np.ndarray:
    process = load("azure-code-2023").arrivals
    assert process is not None
    return process.draw(SPAN_S, np.random.default_rng(1))


def scale(method: str, times: np.ndarray, factor: float, seed: int = 0) -> Scaled:
    return METHODS[method](times, SPAN_S, factor, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("method", "factor"),
    [
        ("stretch", 0.4),
        ("stretch", 3.0),
        ("thin", 0.4),
        ("superpose", 2.5),
        ("superpose", 1.0),
        ("resample", 0.4),
        ("resample", 3.0),
    ],
)
def test_every_method_reaches_the_rate_with_sorted_times_of_real_rows(
    method: str, factor: float, bursty: np.ndarray
) -> None:
    scaled = scale(method, bursty, factor)
    assert len(scaled.times) / scaled.span_s == pytest.approx(factor * len(bursty) / SPAN_S, rel=0.08)
    assert (np.diff(scaled.times) >= 0).all()
    assert scaled.times[0] >= 0
    assert scaled.times[-1] < scaled.span_s
    assert set(scaled.rows.tolist()) <= set(range(len(bursty)))


def test_stretch_keeps_the_cv_and_every_row(bursty: np.ndarray) -> None:
    scaled = scale("stretch", bursty, 2.0)
    before, after = burstiness(bursty, SPAN_S), burstiness(scaled.times, scaled.span_s)
    assert after.iat_cv == pytest.approx(before.iat_cv)
    assert scaled.rows.tolist() == list(range(len(bursty)))


def test_thinning_keeps_the_shape_of_bursts(bursty: np.ndarray) -> None:
    before = burstiness(bursty, SPAN_S)
    after = burstiness(scale("thin", bursty, 0.5).times, SPAN_S)
    assert after.peak_10s == pytest.approx(before.peak_10s, rel=0.25)
    assert after.iat_cv > 4  # every second row of it would have gone down to the regular gaps inside bursts


def test_superposing_smooths_and_resampling_does_not(bursty: np.ndarray) -> None:
    before = burstiness(bursty, SPAN_S)
    tenants = burstiness(scale("superpose", bursty, 4.0).times, SPAN_S)
    crowd = burstiness(scale("resample", bursty, 4.0).times, SPAN_S)
    assert tenants.peak_10s < 0.8 * before.peak_10s
    assert crowd.peak_10s == pytest.approx(before.peak_10s, rel=0.1)


def test_the_seed_decides_what_is_drawn(bursty: np.ndarray) -> None:
    for method, factor in (("thin", 0.5), ("superpose", 2.5), ("resample", 2.5)):
        first, again, other = (scale(method, bursty, factor, seed) for seed in (1, 1, 2))
        assert first.times.tolist() == again.times.tolist() != other.times.tolist()


def test_what_a_method_cannot_do_is_refused(bursty: np.ndarray) -> None:
    with pytest.raises(
        TraceError, match=r"thin only lowers the rate, not by 2 x: choose stretch, superpose or resample"
    ):
        scale("thin", bursty, 2.0)
    with pytest.raises(TraceError, match=r"superpose only raises the rate, not by 0\.5 x"):
        scale("superpose", bursty, 0.5)


def test_repeating_starts_over_and_cuts() -> None:
    scaled = Scaled(np.array([0.0, 4.0]), np.array([0, 1]), 10.0)
    longer = repeat(scaled, 24.0)
    assert longer.times.tolist() == [0.0, 4.0, 10.0, 14.0, 20.0]
    assert longer.rows.tolist() == [0, 1, 0, 1, 0]
    assert repeat(scaled, 4.0).times.tolist() == [0.0]


def test_figures_of_hand_made_arrivals() -> None:
    times = np.array([0.0, 0.0, 0.5, 10.0])
    found = burstiness(times, 20.0)
    assert (found.requests, found.rate_rps) == (4, 0.2)
    assert found.peak_1s == pytest.approx(3 / 0.2)
    assert found.peak_10s == pytest.approx(0.3 / 0.2)
    assert found.idc_10s == pytest.approx(1.0 / 2.0)
    assert found.empty_seconds == pytest.approx(18 / 20)
    gaps = np.diff(times)
    assert found.iat_cv == pytest.approx(gaps.std() / gaps.mean())


def test_poisson_arrivals_look_like_it() -> None:
    found = burstiness(Poisson(rate_rps=20).draw(SPAN_S, np.random.default_rng(0)), SPAN_S)
    assert found.rate_rps == pytest.approx(20, rel=0.05)
    assert found.iat_cv == pytest.approx(1, rel=0.05)
    assert found.idc_10s == pytest.approx(1, abs=0.4)
