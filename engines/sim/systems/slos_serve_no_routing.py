"""slosgate behind round robin: each replica's admission is planned, where a request goes is not."""

from __future__ import annotations

from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.planned import FrontEnd, PlannedSystem


class SlosServeNoRouting(PlannedSystem):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, FrontEnd(speculates=True, routes=False))
