"""An engine's performance model, kept true by what its iterations take (the rule: planner/recalibration.py)."""

from __future__ import annotations

from slosgate.engines.messages import IterationReport
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.recalibration import Recalibration

EVERY = 8  # iterations between two looks at the model
WORTH = 0.01  # relative change of an iteration's time that is worth a new model


class Calibrator:
    """Sees every iteration; now and then returns a better model than the one in use."""

    def __init__(self, fitted: PerfModel) -> None:
        self._fitted = fitted
        self._learned = Recalibration()
        self._in_use = fitted

    def __call__(self, report: IterationReport) -> PerfModel | None:
        did = report.new_tokens, report.context_tokens, report.sequences, report.draft_steps
        self._learned = self._learned.update(self._fitted.iteration_s(*did), report.duration_s)
        if self._learned.seen % EVERY:
            return None
        better = self._learned.model(self._fitted)
        if abs(better.iteration_s(*did) / self._in_use.iteration_s(*did) - 1.0) < WORTH:
            return None
        self._in_use = better
        return better
