"""Looks once a second for what no single message shows: replicas whose plans no longer come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.reports import events
from slosgate.gateway.state.ledger import Ledger

LOOK_S = 1.0
STALE_S = 3.0  # a replica that reports is planned for at least twice a second


class Watch:
    def __init__(self, fleet: Fleet, ledger: Ledger, *, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._clock = clock
        self._stale: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        """While Redis is away, or a replica says nothing, that has been told already."""
        now_s = self._clock()
        living = list(self._fleet.living())
        self._stale &= {replica.name for replica in living}
        if not self._ledger.available:
            return
        for replica in living:
            if replica.follows_plans and not replica.silent(now_s):
                self._judge(replica, replica.plan_age_s(now_s))

    def _judge(self, replica: Replica, age_s: float) -> None:
        if age_s > STALE_S and replica.name not in self._stale:
            self._stale.add(replica.name)
            events.say(events.PlansStale(replica=replica.name, age_s=age_s))
        elif age_s <= STALE_S and replica.name in self._stale:
            self._stale.discard(replica.name)
            events.say(events.PlansFresh(replica=replica.name))
