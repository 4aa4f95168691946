"""vLLM as it comes: V1 replicas behind round robin."""

from __future__ import annotations

from functools import partial

from engines.sim.policies.vllm import VllmPolicy
from engines.sim.systems.base import Fleet, Settings, StageJob, equal_replicas


class Vllm:
    """`settings.budget` replaces V1's max_num_batched_tokens; `settings.drafts` adds fixed speculation."""

    def __init__(self, settings: Settings) -> None:
        policy = partial(VllmPolicy, budget=settings.budget, drafts=settings.drafts)
        self.replicas = equal_replicas(settings, policy)
        self._turn = 0

    def arrive(self, fleet: Fleet, job: StageJob, now_s: float) -> None:
        # Later stages follow their prefix, as any router with session affinity does.
        replica = job.replica if job.replica >= 0 else self._next()
        fleet.submit(job, replica, job.engine_request(), now_s)

    def served(self, fleet: Fleet, job: StageJob, now_s: float) -> bool:
        return True

    def _next(self) -> int:
        turn, self._turn = self._turn, (self._turn + 1) % len(self.replicas)
        return turn
