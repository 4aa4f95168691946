"""Plans: when the jobs of a replica change, plan its next iterations and publish them; promote what has room now.

Every gateway admits to every replica, but one gateway plans each replica: the one that hashes highest with it among
those alive. Nobody elects anybody: when a gateway dies, its heartbeat ends and the next-highest takes over; while two
think that they are it, the epochs in Redis let the newer plan win.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from zlib import crc32

import msgspec

from slosgate.engines.messages import Plan
from slosgate.gateway.decisions.admission import state_of
from slosgate.gateway.replicas.books import Books
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.reports.metrics import Metrics
from slosgate.gateway.state.ledger import Conflict, Ledger, StoreDown
from slosgate.planner.desk import SHIPPED, DeskSettings, run_next
from slosgate.planner.plans import ReplicaPlan


class Planning:
    def __init__(
        self, fleet: Fleet, books: Books, ledger: Ledger, metrics: Metrics, *,
        interval_s: float, settings: DeskSettings = SHIPPED, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._fleet = fleet
        self._books = books
        self._ledger = ledger
        self._metrics = metrics
        self._settings = settings
        self._interval_s = interval_s
        self._clock = clock
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        fleet.on_news(self._note)

    def _note(self, replica: Replica) -> None:
        if replica.follows_plans:
            self._changed.add(replica.name)
            self._wake.set()

    async def run(self) -> None:
        """Plan what has changed, at most once per interval, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._changed = self._changed, set()
            for name in names:
                replica = self._fleet.replicas.get(name)
                if replica is not None and replica.alive and owner(name, self._fleet.gateways) == self._ledger.gateway:
                    await self.plan(replica)
            await asyncio.sleep(self._interval_s)

    async def plan(self, replica: Replica) -> None:
        """Promote what has room on one replica, and publish its next iterations."""
        mirror = replica.mirror
        if mirror is None or not self._ledger.available:
            return
        try:
            now_s = self._clock()
            with self._metrics.planner_call("plan"):
                orders = run_next(state_of(replica, mirror, now_s), now_s, self._settings)
            await self._promote(replica, mirror, orders.promoted, now_s)
            plan = _message(replica, mirror, orders.plan, now_s)
            mirror.epoch = await self._ledger.publish_plan(plan)
            if mirror.epoch == plan.epoch:
                self._metrics.published()
        except (StoreDown, Conflict):
            # A conflict means that someone else has just admitted here: its change arrives and wakes us again.
            return

    async def _promote(self, replica: Replica, mirror: Mirror, promoted: tuple[str, ...], now_s: float) -> None:
        """Guarantee best-effort requests that have room now, by compare-and-set like any admission."""
        found = [mirror.entries.get(request_id) for request_id in promoted]
        known = {"guaranteed": True, "decided_s": now_s, "report_s": mirror.report_s}
        entries = tuple(msgspec.structs.replace(e, **known) for e in found if e is not None)
        if not entries:
            return
        for entry in entries:  # at once, so that what is decided while this is on its way counts it
            mirror.add(entry)
        try:
            version = await self._ledger.promote(replica.name, mirror.version, entries)
        except Conflict:
            await self._books.reload(replica)
            raise
        mirror.advanced(version, len(entries))
        for entry in entries:
            replica.promote(entry)


def _message(replica: Replica, mirror: Mirror, planned: ReplicaPlan, now_s: float) -> Plan:
    return Plan(
        replica=replica.name,
        epoch=mirror.epoch + 1,
        issued_at_s=now_s,
        horizon=planned.horizon,
        guaranteed=tuple(e.request_id for e in mirror.entries.values() if e.guaranteed),
        preempt=planned.preempt,
    )


def owner(replica: str, gateways: frozenset[str]) -> str:
    """The gateway that plans a replica; every gateway computes the same."""
    return max(gateways, key=lambda gateway: (crc32(f"{gateway} {replica}".encode()), gateway), default="")
