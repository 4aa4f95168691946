"""slosgate, speculation on: the planner chooses draft lengths by acceptance rates learnt on the way."""

from __future__ import annotations

from slosgate.engines.sim.systems.base import Settings
from slosgate.engines.sim.systems.planned import FrontEnd, PlannedSystem


class SlosServe(PlannedSystem):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, FrontEnd(speculates=True))
