"""Equal replicas of a baseline behind round robin."""

from __future__ import annotations

from slosgate.engines.sim.policies.base import PolicyFactory
from slosgate.engines.sim.systems.base import Fleet, Settings, StageJob, equal_replicas


class RoundRobin:
    """Requests take turns; later stages follow their prefix, as any router with session affinity does."""

    def __init__(self, settings: Settings, policy: PolicyFactory) -> None:
        self.replicas = equal_replicas(settings, policy)
        self._turn = 0

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        replica = job.replica if job.replica >= 0 else self._next()
        fleet.submit(job, replica, job.engine_request(), now_s)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        return True

    def passes_on(self, job: StageJob, replica: int) -> bool:
        return False

    def _next(self) -> int:
        turn, self._turn = self._turn, (self._turn + 1) % len(self.replicas)
        return turn
