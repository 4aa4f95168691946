"""How many replicas of each model a fleet has now: as its file says, or between its limits as its gateways want it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from slosgate.engines.fleet.spec import LimitsSpec, ModelSpec
from slosgate.planner.sizing import Steadied

EVERY_S = 5.0


class Scaling:
    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._counts: dict[str, int] = {}
        self._steadied: dict[str, tuple[LimitsSpec, Steadied]] = {}

    def count(self, name: str, spec: ModelSpec) -> int:
        """Replicas that the model of that name is to have."""
        if isinstance(spec.replicas, int):
            return spec.replicas
        return max(spec.replicas.least, min(spec.replicas.most, self._counts.get(name, 0)))

    def look(self, models: Mapping[str, ModelSpec], wanted: Callable[[str], int | None]) -> bool:
        """Take up what is wanted of each now, None where nobody says; whether a count has changed.

        More are had at once, fewer one by one.
        """
        before, now_s = dict(self._counts), self._monotonic()
        for name, spec in models.items():
            limits, number = spec.replicas, wanted(name)
            if isinstance(limits, int) or number is None:
                continue
            known, steadied = self._steadied.get(name, (None, None))
            if steadied is None or known != limits:
                steadied = Steadied(limits.least, limits.most, limits.down_after_s)
                self._steadied[name] = limits, steadied
            self._counts[name] = max(steadied.at(now_s, number), self.count(name, spec) - 1)
        return self._counts != before
