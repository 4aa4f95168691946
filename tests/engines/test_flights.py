"""Iterations under way, as vLLM lets its scheduler see them: an output is taken only when the next one is launched."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.engines.calibrating import Calibrator
from slosgate.engines.messages import IterationReport
from slosgate.engines.vllm.flight import LONGEST_MARGIN_S, Flight, Flights
from slosgate.planner.launching import CAPTURED, DECODES, MARGIN_S
from slosgate.planner.perf_model import pairs_of

PROFILE = profiles.load("h200-llama-3.1-8b")


class Engine:
    """Launches iterations that take `expected_s` as far as is known, and has their outputs taken."""

    def __init__(self, *, looks_ahead: bool = True) -> None:
        self.flights = Flights(PROFILE, looks_ahead=looks_ahead)
        self._ends_s = 0.0

    def launch(self, at_s: float, expected_s: float, launch_s: float, new_tokens: int = 8) -> Flight:
        start_s = self.flights.expected_end_s(at_s)
        flight = Flight(
            object(), at_s, expected_s, start_s + expected_s, new_tokens, context_tokens=100, sequences=8,
            draft_steps=0, put_off=False, lead_s=self.lead_s,
        )  # fmt: skip
        self.flights.launch(flight)
        self.flights.launched(at_s + launch_s)
        return flight

    def land(self, flight: Flight, at_s: float) -> IterationReport:
        landed = self.flights.land(flight.output, at_s)
        assert landed is not None
        return landed[1]

    @property
    def lead_s(self) -> float:
        return self.flights.lead_s(DECODES)


def test_an_end_during_a_launch_is_taken_to_be_when_it_was_expected() -> None:
    engine = Engine()
    first = engine.launch(0.0, 0.005, 0.002)
    decodes = engine.launch(0.002, 0.005, 0.002)
    engine.land(first, 0.005)
    prefill = engine.launch(0.0051, 0.040, 0.023, new_tokens=2000)
    assert engine.land(decodes, 0.0282).duration_s == pytest.approx(0.005)  # over at 10 ms, seen at 28
    assert engine.land(prefill, 0.051).duration_s == pytest.approx(0.041)
    assert not decodes.tells
    assert not prefill.tells  # nor when it began is known


def test_an_expectation_that_is_much_too_long_is_unlearned() -> None:
    engine = Engine()
    first = engine.launch(0.0, 0.5, 0.002)
    second = engine.launch(0.45, 0.5, 0.002)  # as late as the expectation allows; the first ended long before
    assert engine.land(first, 0.4521).duration_s == pytest.approx(0.4521)
    assert engine.land(second, 0.47).duration_s < 0.02
    assert second.tells


def test_an_end_that_was_awaited_is_seen_when_it_comes() -> None:
    engine = Engine()
    first, second = engine.launch(0.0, 0.005, 0.001), engine.launch(0.001, 0.005, 0.001)
    engine.land(first, 0.007)
    assert engine.land(second, 0.0135).duration_s == pytest.approx(0.0065)
    assert second.tells


@pytest.mark.parametrize(("looks_ahead", "tells"), [(True, False), (False, True)])
def test_what_starts_on_an_idle_device_tells_what_that_takes_only_where_all_do(looks_ahead: bool, tells: bool) -> None:
    engine = Engine(looks_ahead=looks_ahead)
    alone = engine.launch(0.0, 0.005, 0.009)
    engine.land(alone, 0.011)
    assert alone.tells is tells


def test_ends_that_come_early_but_are_seen_make_no_lead_longer() -> None:
    engine, at_s = Engine(), 0.0
    before = engine.launch(at_s, 0.0056, 0.0015)
    for _ in range(300):
        following = engine.launch(at_s + 0.0002, 0.0056, 0.0015)
        at_s += 0.0048  # each is over 0.8 ms before it is expected to be
        engine.land(before, at_s)
        before = following
    assert engine.lead_s == pytest.approx(0.0015 + MARGIN_S)  # what a launch takes, and no more


def test_ends_that_an_earlier_choice_would_have_shown_make_the_lead_longer() -> None:
    engine, at_s = Engine(), 0.0
    before = engine.launch(at_s, 0.050, 0.002)
    for _ in range(60):
        chosen_s = before.expected_end_s - engine.lead_s
        following = engine.launch(chosen_s, 0.050, 0.002)
        at_s = chosen_s + 0.0022  # it was over before that
        engine.land(before, at_s)
        before = following
    assert 0.002 + 5 * MARGIN_S < engine.lead_s <= 0.002 + LONGEST_MARGIN_S


@pytest.mark.parametrize("prefills_share", [0.02, 0.2, 0.5, 0.9, 1.0])
def test_expectations_stay_true_while_launches_hide_ends(prefills_share: float) -> None:
    """A device and a host, both in time of their own, and a replica that learns from what it sees of them."""
    truth, rng = PROFILE.perf, np.random.default_rng(7)
    learns, model, flights = Calibrator(truth), truth, Flights(PROFILE, looks_ahead=True)
    host_s, device_s, ends_s = 0.0, 0.0, deque[tuple[Flight, float]]()
    for _ in range(4000):
        new = int(rng.choice([200, 200, 200, 1000, 1800])) if rng.random() < prefills_share else 12
        launch_s = 0.0015 if new == 12 else 0.009 if new <= 1024 else 0.024
        size = new, 12_000, 12, 0, 0.0 if new == 12 else pairs_of(0, new)
        expected_s, start_s = model.iteration_s(*size), flights.expected_end_s(host_s)
        flight = Flight(
            object(), host_s, expected_s, start_s + expected_s, new, context_tokens=12_000, sequences=12,
            draft_steps=0, put_off=False, pairs=size[-1], lead_s=flights.lead_s(CAPTURED),
        )  # fmt: skip
        flights.launch(flight)
        took_s = truth.iteration_s(*size) * rng.normal(1.0, 0.02)
        device_s = max(device_s, host_s + min(launch_s, 0.002)) + took_s
        device_s = max(device_s, host_s + launch_s)  # it is not over before all of it was launched
        host_s += launch_s
        flights.launched(host_s)
        ends_s.append((flight, device_s))
        if len(ends_s) == 2:
            before, end_s = ends_s.popleft()
            host_s = max(host_s + rng.uniform(0.0002, 0.0015), end_s)  # an output is not taken at once
            landed = flights.land(before.output, host_s)
            assert landed is not None
            if before.tells:
                model = learns(landed[1]) or model
            host_s += flights.undecided_s(host_s, CAPTURED)
    for new in (12, 1000, 1800):
        size = new, 12_000, 12, 0, 0.0 if new == 12 else pairs_of(0, new)
        assert 0.85 < model.iteration_s(*size) / truth.iteration_s(*size) < 1.35
