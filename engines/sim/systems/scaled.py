"""slosgate on as many replicas as a scaler wants, in virtual time: they start with a delay and drain before they go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from slosgate.engines.sim.systems.base import BEST_EFFORT, GUARANTEED, REFUSED, Fleet, Settings, StageJob
from slosgate.engines.sim.systems.slosgate import FrontEnd, PlannedSystem
from slosgate.planner.desk import SHIPPED
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.sizing import Demand, Steadied, as_it_came, replicas_wanted


@dataclass(slots=True)
class Seen:
    """What a scaler may look at."""

    profile: HardwareProfile
    replicas: int  # that are up or start
    demand: Demand = field(default_factory=Demand)
    in_flight: int = 0  # requests


Scaler: TypeAlias = Callable[[Seen, float], int]  # (what is seen, now) -> replicas wanted


def by_shortage(seen: Seen, now_s: float) -> int:
    """As the gateway tells it."""
    return replicas_wanted(seen.demand.recent(now_s), seen.profile, near=seen.replicas)


@dataclass(frozen=True, slots=True)
class ByThreshold:
    """So many that each has this many requests in flight, as a horizontal autoscaler does it."""

    in_flight: float
    tolerance: float = 0.1  # within which nothing changes

    def __call__(self, seen: Seen, now_s: float) -> int:
        ratio = seen.in_flight / self.in_flight / max(1, seen.replicas)
        return seen.replicas if abs(ratio - 1) <= self.tolerance else math.ceil(seen.in_flight / self.in_flight)


@dataclass(frozen=True, slots=True)
class Pace:
    """When a scaler is asked, and how fast what it wants comes about."""

    every_s: float
    start_s: float  # from when a replica is wanted until it takes requests
    ends_s: float  # nothing changes after that, nor is counted


class ScaledSystem(PlannedSystem):
    """`settings.replicas` are there to be started. What drains is not available until it is empty."""

    def __init__(self, settings: Settings, scaler: Scaler, steadied: Steadied, pace: Pace) -> None:
        super().__init__(settings, FrontEnd())
        self.replica_s = 0.0  # that replicas were there for, from the start of each until it has drained
        self.most = steadied.least  # replicas at once
        self._scaler, self._steadied, self._pace = scaler, steadied, pace
        self._began_s = dict.fromkeys(range(steadied.least), 0.0)  # of replicas that are there
        self._up = set(range(steadied.least))
        self._draining: set[int] = set()
        self._jobs_on: Counter[int] = Counter()
        self._seen = Seen(settings.profile, steadied.least)
        self._ticks = False

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        if not self._ticks:
            self._ticks = True
            fleet.at(now_s + self._pace.every_s, lambda at_s: self._tick(fleet, at_s))
        super().arrive(fleet, job, now_s)
        arrival = self._arrival(job)
        met = {GUARANTEED: True, BEST_EFFORT: None, REFUSED: False}[job.admission]
        came = as_it_came(arrival, 0, now_s, SHIPPED)
        self._seen.demand.came(job.id, came, job.request.slo_class, has_slo=arrival.has_slo, met=met)
        if job.admission != REFUSED:
            self._jobs_on[job.replica] += 1
            self._seen.in_flight += 1

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        self._seen.demand.ended(job.id, job.emitted, met=job.admission == GUARANTEED)
        self._seen.in_flight -= 1
        self._jobs_on[job.replica] -= 1
        if job.replica in self._draining and not self._jobs_on[job.replica]:
            self._leave(job.replica, now_s)
        return super().served(fleet, job, now_s)

    def finish(self) -> float:
        """Replica seconds until the end."""
        for number in list(self._began_s):
            self._leave(number, self._pace.ends_s)
        return self.replica_s

    def _taking(self) -> list[int]:
        return sorted(self._up)

    def _tick(self, fleet: Fleet, now_s: float) -> None:
        there = [number for number in self._began_s if number not in self._draining]
        self._seen.replicas = len(there)
        wanted = self._steadied.at(now_s, self._scaler(self._seen, now_s))
        free = [number for number in range(len(self.replicas)) if number not in self._began_s]
        for number in free[: max(0, wanted - len(there))]:
            self._start(fleet, number, now_s)
        if wanted < len(there):
            self._drain(sorted(there, key=lambda n: (n in self._up, self._jobs_on[n]))[0], now_s)
        self.most = max(self.most, len(self._began_s))
        if now_s + self._pace.every_s <= self._pace.ends_s:
            fleet.at(now_s + self._pace.every_s, lambda at_s: self._tick(fleet, at_s))

    def _start(self, fleet: Fleet, number: int, now_s: float) -> None:
        self._began_s[number] = now_s

        def up(at_s: float) -> None:
            if self._began_s.get(number) == now_s:  # it may have gone again
                self._up.add(number)

        fleet.at(now_s + self._pace.start_s, up)

    def _drain(self, number: int, now_s: float) -> None:
        self._up.discard(number)
        self._draining.add(number)
        if not self._jobs_on[number]:
            self._leave(number, now_s)

    def _leave(self, number: int, now_s: float) -> None:
        self._draining.discard(number)
        began_s = self._began_s.pop(number)
        self.replica_s += max(0.0, min(now_s, self._pace.ends_s) - began_s)
