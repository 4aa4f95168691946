"""slosgate that decides once, first come first served: what can't be guaranteed on arrival loses its deadline."""

from __future__ import annotations

from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.planned import FrontEnd, PlannedSystem


class SlosServeGreedy(PlannedSystem):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, FrontEnd(speculates=True, promotes=False, selects=False))
