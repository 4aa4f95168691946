"""What is missing: requests of late that were not promised their SLO, and how many replicas would have promised it."""

from __future__ import annotations

import asyncio
import math

from slosgate.gateway.decisions.headroom import Headroom
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.gateway.reports.metrics import Short
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.sizing import Demand, as_it_came, replicas_wanted

HOLDS_S = 5.0  # how long an answer is given again: a rehearsal takes tens of milliseconds
USUAL_TOKENS = 1000  # prompt by which replicas of different speed are compared


class Shortage:
    """Kept by what one gateway is asked for; others that serve the same replicas are taken to be asked for as much."""

    def __init__(self, fleet: Fleet, headroom: Headroom) -> None:
        self._fleet = fleet
        self._headroom = headroom
        self._demands: dict[str, Demand] = {}
        self._found: dict[str, Short] = {}
        self._found_s = -math.inf

    def came(self, exchange: Exchange, *, refused: bool = False) -> None:
        """A request was admitted, or refused because its SLO can't be guaranteed now."""
        model = _model(exchange)
        if not model:
            return
        arrival = exchange.arrival(exchange.arrival_s)
        came = as_it_came(arrival, exchange.cached.sure, exchange.arrival_s, exchange.settings)
        met = False if refused else exchange.guaranteed or None
        demand = self._demands.setdefault(model, Demand())
        demand.came(
            exchange.request_id, came, exchange.contract.slo_class, has_slo=exchange.contract.has_slo, met=met
        )  # fmt: skip

    def ended(self, exchange: Exchange) -> None:
        """Its answer has ended. What was only served outside was not met here."""
        demand = self._demands.get(_model(exchange))
        if demand is not None and not exchange.overflow:
            demand.ended(exchange.request_id, exchange.tokens, met=exchange.guaranteed or not exchange.late)

    async def found(self, now_s: float) -> dict[str, Short]:
        """By model, of those that have replicas and were asked for; found anew when it is older than HOLDS_S."""
        if abs(now_s - self._found_s) >= HOLDS_S:
            self._found_s = now_s
            found = [(model, await self._of(model, now_s)) for model in list(self._demands)]
            self._found = {model: short for model, short in found if short is not None}
        return self._found

    async def _of(self, model: str, now_s: float) -> Short | None:
        """None without a replica whose profile is known."""
        profiles = [r.mirror.profile for r in self._fleet.taking() if r.model == model and r.mirror is not None]
        if not profiles:
            return None
        demand, profile, gateways = self._demands[model], _middle(profiles), max(1, len(self._fleet.gateways))
        wanted = await asyncio.to_thread(
            replicas_wanted, demand.recent(now_s), profile, near=len(profiles), times=gateways
        )
        room = self._headroom.of_classes(model, now_s)
        unmet = demand.unmet(now_s, profile)
        return Short(wanted, room | {name: -count for name, count in unmet.items() if count})


def _model(exchange: Exchange) -> str:
    """What the replicas that could serve it were started with; empty without any."""
    replicas = [exchange.placement.replica] if exchange.attempts else exchange.replicas
    return replicas[0].model if replicas else ""


def _middle(profiles: list[HardwareProfile]) -> HardwareProfile:
    """That of the replica in the middle, by speed."""
    return sorted(profiles, key=lambda profile: profile.zero_load_ttft_s(USUAL_TOKENS))[len(profiles) // 2]
