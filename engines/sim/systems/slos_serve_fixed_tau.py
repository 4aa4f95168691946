"""slosgate with iterations of one size, whatever slack there is: that of the tightest tier."""

from __future__ import annotations

from engines.sim.systems.base import Settings
from engines.sim.systems.planned import FrontEnd, PlannedSystem

TAU_S = 0.05  # the tightest TPOT SLO of all scenarios


class SlosServeFixedTau(PlannedSystem):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, FrontEnd(speculates=True, tau_s=TAU_S))
