"""vLLM V0, the paper's vLLM: prefill first, behind round robin."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from slosgate.engines.sim.policies.vllm_v0 import VllmV0Policy
from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.round_robin import RoundRobin


class VllmV0(RoundRobin):
    """`settings.budget` bounds the prompt tokens of an iteration; `settings.drafts` adds fixed speculation.

    V0 never chose an iteration while another ran.
    """

    def __init__(self, settings: Settings) -> None:
        settings = replace(settings, async_scheduling=False)
        super().__init__(settings, partial(VllmV0Policy, budget=settings.budget, drafts=settings.drafts))
