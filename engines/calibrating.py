"""An engine's performance model, kept true by what its iterations take (the rule: planner/recalibration.py)."""

from __future__ import annotations

from slosgate.engines.messages import IterationReport
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.recalibration import ByKind

EVERY = 8  # iterations between two looks at the model
WORTH = 0.01  # relative change of an iteration's time that is worth a new model


class Calibrator:
    """Sees every iteration; now and then returns a better model than the one in use."""

    def __init__(self, fitted: PerfModel) -> None:
        self._fitted = fitted
        self._learned = ByKind()
        self._in_use = fitted
        self._latest: dict[bool, IterationReport] = {}  # of those that prefill, and of those that only decode

    def __call__(self, report: IterationReport) -> PerfModel | None:
        prefills = report.pairs > 0.0
        self._latest[prefills] = report
        self._learned = self._learned.update(
            self._fitted.iteration_s(*report.size), report.duration_s, prefills=prefills
        )
        if self._learned.seen % EVERY:
            return None
        better = self._learned.model(self._fitted)
        if not any(self._differs(better, latest) for latest in self._latest.values()):
            return None
        self._in_use = better
        return better

    def _differs(self, better: PerfModel, report: IterationReport) -> bool:
        return abs(better.iteration_s(*report.size) / self._in_use.iteration_s(*report.size) - 1.0) >= WORTH
