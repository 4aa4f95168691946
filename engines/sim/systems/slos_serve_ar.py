"""slosgate without speculation."""

from __future__ import annotations

from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.planned import FrontEnd, PlannedSystem


class SlosServeAr(PlannedSystem):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, FrontEnd())
