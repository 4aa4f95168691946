"""vLLM as it comes: V1 replicas behind round robin."""

from __future__ import annotations

from functools import partial

from slosgate.engines.sim.policies.vllm import VllmPolicy
from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.round_robin import RoundRobin


class Vllm(RoundRobin):
    """`settings.budget` replaces V1's max_num_batched_tokens; `settings.drafts` adds fixed speculation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, partial(VllmPolicy, budget=settings.budget, drafts=settings.drafts))
