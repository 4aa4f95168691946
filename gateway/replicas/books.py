"""Keeps each replica's mirror in step with its ledger in Redis: what the other gateways promise there and take back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress

from slosgate.engines.store import STORE_ERRORS
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.gateway.replicas.replica import Replica
from slosgate.gateway.reports import events
from slosgate.gateway.state.ledger import Ledger, StoreDown
from slosgate.gateway.state.records import Change

RESUBSCRIBE_S = 0.2
GONE_S = 1.0  # a gateway whose heartbeat has been missing for so long is dead: two looks, so that one lost key is none


class Books:
    def __init__(
        self, fleet: Fleet, ledger: Ledger, *, clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._fleet = fleet
        self._ledger = ledger
        self._clock = clock
        self._monotonic = monotonic
        self._missing: dict[str, float] = {}  # gateways without a heartbeat, and since when

    async def reload(self, replica: Replica, *, restore: bool = False) -> None:
        """Take the ledger of a replica from Redis. `restore` also puts back what Redis should hold of ours.

        Raises StoreDown.
        """
        if replica.mirror is None:
            return
        asked_s, before = self._clock(), frozenset(replica.mirror.entries)
        version, entries = await self._ledger.load(replica.name)
        stray = tuple(i for i, e in entries.items() if e.gateway == self._ledger.gateway and i not in replica.own)
        if stray:
            self._ledger.remove(replica.name, stray)
        missing = tuple(e for i, e in replica.own.items() if i not in entries)
        kept = {i: e for i, e in entries.items() if i not in stray}
        replica.mirror.load(version, kept | replica.own, asked_s, before)
        if restore and missing:
            await self._ledger.add(replica.name, missing)

    async def run(self) -> None:
        """Follow the other gateways, as long as the same ones live; one that works alone hears nothing."""
        while True:
            others = self._fleet.gateways - {self._ledger.gateway}
            with suppress(*STORE_ERRORS, StoreDown):
                await self._ledger.while_connected(self._follow(others))
            await asyncio.sleep(RESUBSCRIBE_S)

    async def _follow(self, others: frozenset[str]) -> None:
        async with aclosing(self._ledger.changes(others)) as changes:
            async for news in changes:
                if news is not None:
                    self._apply(*news)
                else:
                    # Just subscribed, or all is quiet: what we may have missed is in Redis.
                    for replica in list(self._fleet.living()):
                        await self.reload(replica)
                if self._fleet.gateways - {self._ledger.gateway} != others:
                    return

    def _apply(self, version: int, change: Change) -> None:
        replica = self._fleet.replicas.get(change.replica)
        if replica is None or replica.mirror is None:
            return
        for entry in change.entries:
            if change.promote:
                replica.promote(entry)
            else:
                replica.mirror.add(entry)
                replica.prefixes.others(entry.uncached_tokens + entry.output_tokens)
        if version:
            replica.mirror.advanced(version, len(change.entries))
        for request_id in change.removed:
            if request_id not in replica.own:
                replica.mirror.drop(request_id, self._clock())
        self._fleet.tell(replica)

    def count_gateways(self, living: frozenset[str]) -> None:
        """These gateways have a heartbeat. Free what others had promised, once they have been without for a while:
        their clients are gone, so their replicas have stopped."""
        now_s = self._monotonic()
        living |= {self._ledger.gateway}
        known = self._fleet.gateways | self._promising()
        self._missing = {gateway: self._missing.get(gateway, now_s) for gateway in known - living}
        dead = frozenset(gateway for gateway, since_s in self._missing.items() if now_s - since_s >= GONE_S)
        for gateway in sorted(living - self._fleet.gateways - {self._ledger.gateway}):
            events.say(events.GatewayJoined(gateway=gateway))
        self._fleet.gateways = living | (self._fleet.gateways - dead)
        if dead:
            self._ledger.forget(dead)
        for gateway in sorted(dead):
            events.say(events.GatewayLost(gateway=gateway, freed=self._strike(gateway)))

    def _promising(self) -> frozenset[str]:
        mirrors = [replica.mirror for replica in self._fleet.living() if replica.mirror is not None]
        return frozenset(entry.gateway for mirror in mirrors for entry in mirror.entries.values())

    def _strike(self, gateway: str) -> int:
        """Free what a gateway had promised; how many places that were."""
        freed = 0
        for replica in self._fleet.living():
            if replica.mirror is None:
                continue
            struck = tuple(i for i, e in replica.mirror.entries.items() if e.gateway == gateway)
            for request_id in struck:
                replica.mirror.drop(request_id, self._clock())
            if struck:
                self._ledger.remove(replica.name, struck)
                self._fleet.tell(replica)
            freed += len(struck)
        return freed
