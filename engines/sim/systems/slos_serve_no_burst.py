"""slosgate that makes everybody a guarantee: in a burst nobody is deferred to best effort."""

from __future__ import annotations

from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.planned import FrontEnd, PlannedSystem


class SlosServeNoBurst(PlannedSystem):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, FrontEnd(speculates=True, defers=False))
