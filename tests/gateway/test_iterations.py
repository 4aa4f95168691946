"""What ran on a replica, beside what was planned."""

from __future__ import annotations

import pytest

from slosgate.engines import profiles
from slosgate.engines.messages import IterationReport
from slosgate.gateway.replicas.iterations import Iterations
from slosgate.planner.perf_model import pairs_of

LONG = profiles.load("h200-llama-3.1-8b")


def test_what_a_long_prompt_attends_to_was_planned_for() -> None:
    iterations = Iterations()
    report = IterationReport(0.812, 8192, 96_282, 1, 0, pairs_of(88_090, 8192))
    iterations.note([report], LONG.perf, 10.0)
    assert iterations.latest(1)[0].planned_s == pytest.approx(0.812, rel=0.05)
    assert LONG.perf.iteration_s(*iterations.last_size) == pytest.approx(iterations.planned_s)
