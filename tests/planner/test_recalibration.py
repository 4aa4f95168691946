import numpy as np
import pytest

from slosgate.planner.recalibration import ByKind, Recalibration
from tests.planner.cases import H200


def predictions(n: int) -> list[float]:
    """Fitted durations of decodes and of prefills of many sizes, seconds."""
    rng = np.random.default_rng(0)
    return [H200.perf.iteration_s(int(x), int(20 * x), 8) for x in rng.choice([8, 40, 500, 2000], n)]


def learned(durations: list[tuple[float, float]], start: Recalibration | None = None) -> Recalibration:
    state = start or Recalibration()
    for predicted_s, measured_s in durations:
        state = state.update(predicted_s, measured_s)
    return state


@pytest.mark.parametrize("drift", [1.2, 0.8])
def test_a_drift_of_a_fifth_is_tracked_within_5_percent_in_200_iterations(drift: float) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(1, 0.05, 500)
    steady = learned([(p, p * e) for p, e in zip(predictions(300), noise[:300], strict=True)])
    drifted = learned([(p, p * drift * e) for p, e in zip(predictions(200), noise[300:], strict=True)], steady)
    for predicted_s in (0.009, 0.03, 0.09):
        assert drifted.expected_s(predicted_s) == pytest.approx(drift * predicted_s, rel=0.05)


def test_noise_is_planned_for() -> None:
    rng = np.random.default_rng(2)
    state = learned([(p, p * float(rng.uniform(0.8, 1.2))) for p in predictions(2000)])
    model = state.model(H200.perf)
    planned_s, fresh = model.iteration_s(500, 4000, 8), H200.perf.iteration_s(500, 4000, 8)
    kept = np.mean([fresh * rng.uniform(0.8, 1.2) <= planned_s for _ in range(2000)])
    assert 0.82 <= kept <= 0.97


def test_one_stray_iteration_does_not_upset_the_plan() -> None:
    state = learned([(p, p) for p in predictions(300)])
    assert state.update(0.01, 2.0).expected_s(0.05) == pytest.approx(0.05, rel=0.05)
    assert state.update(0.01, 0.0) == state


def test_decodes_that_are_five_times_faster_than_the_fit_says_leave_prefills_as_they_are() -> None:
    learned, rng = ByKind(), np.random.default_rng(4)
    prefill, decode = (2100, 90_000, 9, 0, 2000 * 50_000.0), (9, 400_000, 9)
    for n in range(400):
        prefills = n % 5 == 0
        predicted_s = H200.perf.iteration_s(*(prefill if prefills else decode))
        measured_s = predicted_s * float(rng.normal(1.0, 0.02)) * (1.0 if prefills else 0.2)
        learned = learned.update(predicted_s, measured_s, prefills=prefills)
    model = learned.model(H200.perf)
    assert model.iteration_s(*prefill) == pytest.approx(H200.perf.iteration_s(*prefill), rel=0.1)
    assert model.iteration_s(*decode) == pytest.approx(0.2 * H200.perf.iteration_s(*decode), rel=0.15)
    again = learned.model(model)  # what was learned of a model that knows of both stands beside that
    assert again.iteration_s(*prefill) == pytest.approx(H200.perf.iteration_s(*prefill), rel=0.2)
    assert again.iteration_s(*decode) == pytest.approx(0.04 * H200.perf.iteration_s(*decode), rel=0.3)
