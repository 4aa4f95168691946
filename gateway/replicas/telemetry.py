"""Takes replicas' reports into their mirrors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

from slosgate.engines.channel import key, telemetry_reports
from slosgate.engines.messages import Telemetry
from slosgate.engines.store import STORE_ERRORS
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.gateway.state.ledger import Ledger

RESUBSCRIBE_S = 0.2
QUIET_S = 2.0  # replicas report more often: a subscription that is quiet for so long may lead nowhere


class Reports:
    def __init__(self, fleet: Fleet, ledger: Ledger, *, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._clock = clock

    async def run(self) -> None:
        """Follow the reports until cancelled."""
        while True:
            with suppress(*STORE_ERRORS, TimeoutError):
                await self._ledger.while_connected(self._follow())
            await asyncio.sleep(RESUBSCRIBE_S)

    async def _follow(self) -> None:
        async with aclosing(telemetry_reports(self._ledger.redis, self._ledger.door)) as reports:
            while True:
                async with asyncio.timeout(QUIET_S):
                    report = await anext(reports)
                self._take(report)

    def _take(self, report: Telemetry) -> None:
        replica = self._fleet.replicas.get(report.replica)
        if replica is None or replica.mirror is None or not replica.reports:
            return
        now_s = self._clock()
        try:
            replica.mirror.take(report, now_s)
        except (ValueError, KeyError, OverflowError) as error:
            self._ledger.door.refuse(key("telemetry", replica.name), f"{type(error).__name__}: {error}")
            return
        replica.report(report.progress, now_s)
        for prefix in report.prefixes:
            replica.note_cached(prefix)
        self._fleet.drain(replica, report.draining)
        self._fleet.tell_drafts(replica, report.drafts)
        self._fleet.tell(replica)
