"""What ran on one replica, iteration by iteration, beside what its plan thought it would take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from slosgate.engines.messages import IterationReport
from slosgate.planner.perf_model import PerfModel

KEPT = 1024  # iterations: ten seconds of decodes at least


class Ran(NamedTuple):
    """`ended_s` is on our clock, and as exact as the replica's reports are frequent (tens of milliseconds)."""

    number: int
    ended_s: float
    took_s: float
    planned_s: float  # by the model that was planned with when it ran
    new_tokens: int
    sequences: int

    @property
    def over_s(self) -> float:
        return self.took_s - self.planned_s


class Iterations:
    def __init__(self) -> None:
        self.count = 0
        self.took_s = 0.0  # of all
        self.planned_s = 0.0
        self.last_size = (1, 1, 1, 0, 0.0)  # new tokens, context, sequences, draft steps, pairs
        self._latest: deque[Ran] = deque(maxlen=KEPT)

    def note(self, reports: Iterable[IterationReport], perf: PerfModel, heard_s: float) -> None:
        """These ran one after the other until their report was heard; `perf` is what was planned with."""
        reports = tuple(reports)
        ended_s = heard_s - sum(report.duration_s for report in reports)
        for report in reports:
            size = self.last_size = report.size
            planned_s, ended_s = perf.iteration_s(*size), ended_s + report.duration_s
            self.count += 1
            self.took_s += report.duration_s
            self.planned_s += planned_s
            self._latest.append(
                Ran(self.count, ended_s, report.duration_s, planned_s, report.new_tokens, report.sequences)
            )

    def latest(self, count: int) -> list[Ran]:
        """The newest, in their order."""
        skipped = max(0, len(self._latest) - count)
        return [ran for i, ran in enumerate(self._latest) if i >= skipped]

    def between(self, begin_s: float, end_s: float) -> list[Ran]:
        """Those that ran at least partly in this time, as far as they are remembered."""
        return [ran for ran in self._latest if ran.ended_s > begin_s and ran.ended_s - ran.took_s < end_s]
