"""Sarathi-Serve: stall-free chunked prefill, behind round robin."""

from __future__ import annotations

from functools import partial

from slosgate.engines.sim.policies.sarathi import SarathiPolicy
from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.round_robin import RoundRobin


class Sarathi(RoundRobin):
    """`settings.budget` is the token budget, which has to be tuned; `settings.drafts` adds fixed speculation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, partial(SarathiPolicy, budget=settings.budget, drafts=settings.drafts))
