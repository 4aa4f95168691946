"""Replicas that register in Redis: who has come, who has gone, and what names each serves.

A replica counts once its address answers, and is gone once its heartbeat has been missing for longer than one beat, or
at once if its address doesn't answer either. What a record says anew about a replica that is known counts once it has
outlived a heartbeat: a record that someone has spoilt is soon written over by its replica.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from slosgate.engines.channel import HEARTBEAT_S, Registered, ReplicaInfo, registered
from slosgate.engines.store import STORE_ERRORS
from slosgate.gateway.replicas.books import Books
from slosgate.gateway.replicas.credentials import Credentials
from slosgate.gateway.replicas.fleet import Fleet
from slosgate.gateway.replicas.probing import Prober
from slosgate.gateway.replicas.replica import Replica
from slosgate.gateway.reports import events
from slosgate.gateway.state.ledger import Ledger, StoreDown

SCAN_S = 0.4
KEEP_S = 2.0  # ledgers in use are kept from expiring this often
NAMES_S = 2.0  # and replicas' names are read again
PATIENCE_S = HEARTBEAT_S + 0.3
RETURN_GRACE_S = 3.5  # a Redis that came back empty hears of its replicas within this


class Registry:
    def __init__(
        self, fleet: Fleet, books: Books, ledger: Ledger, prober: Prober, credentials: Credentials, *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._fleet = fleet
        self._books = books
        self._ledger = ledger
        self._prober = prober
        self._credentials = credentials
        self._monotonic = monotonic
        self._returned_s = monotonic()
        self._kept_s = monotonic()
        self._read = False  # who has registered, at least once
        self._missing: dict[str, float] = {}  # living replicas without a heartbeat, and since when
        self._changed: dict[str, tuple[ReplicaInfo, float]] = {}  # what records say anew, and since when
        self._coming: set[str] = set()  # replicas that are being looked at
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep the fleet up to date until cancelled."""
        while True:
            try:
                await self._look()
            except (StoreDown, *STORE_ERRORS) as error:
                self._fleet.unread = not self._read
                await self._ledger.lost(error)
            await asyncio.sleep(SCAN_S)

    async def _look(self) -> None:
        gateways = await self._ledger.beat()
        if not self._ledger.available:
            await self._recover()
        self._take(await registered(self._ledger.redis, self._ledger.door))
        self._books.count_gateways(gateways)
        if self._monotonic() - self._kept_s > KEEP_S:
            self._kept_s = self._monotonic()
            self._ledger.keep(replica.name for replica in self._fleet.living() if replica.own)

    async def _recover(self) -> None:
        """Redis is there (again): it may have lost what we promised, and we may have missed what others did."""
        self._returned_s = self._monotonic()
        await self._ledger.found()
        for replica in list(self._fleet.living()):
            await self._books.reload(replica, restore=True)

    def _take(self, found: Registered) -> None:
        self._read, self._fleet.unread = True, False
        for info in found.infos:
            self._consider(info)
        if self._monotonic() - self._returned_s > RETURN_GRACE_S:
            self._miss(found.names)

    # Who has come

    def _consider(self, info: ReplicaInfo) -> None:
        known = self._fleet.replicas.get(info.name)
        if known is not None and not known.reports and known.alive and known.url != info.url.rstrip("/"):
            problem = f"the configuration has a server of this name, {known.url}; give {info.url} another with --name"
            events.say(events.ReplicaRefused(replica=info.name, why=problem))
            return
        if known is not None and known.alive and not self._is_settled(known, info):
            return
        if info.name not in self._coming:
            self._coming.add(info.name)
            self._later(self._welcome(info))

    def _is_settled(self, known: Replica, info: ReplicaInfo) -> bool:
        """Whether a record says something new, and has for longer than a heartbeat."""
        if info == known.info:
            self._changed.pop(info.name, None)
            return False
        now_s = self._monotonic()
        newest, since_s = self._changed.get(info.name, (None, now_s))
        if newest != info:
            self._changed[info.name] = (info, now_s)
            return False
        return now_s - since_s > PATIENCE_S

    async def _welcome(self, info: ReplicaInfo) -> None:
        try:
            if problem := await self._prober.healthy(info.url.rstrip("/")):
                why = f"{info.url} can't be reached from here: {problem}"
                events.say(events.ReplicaRefused(replica=info.name, why=why))
                return
            replica = self._enter(info)
            await self._read_names(replica)
            with suppress(StoreDown):
                await self._books.reload(replica, restore=self._ledger.available)
        finally:
            self._coming.discard(info.name)
            self._changed.pop(info.name, None)

    def _enter(self, info: ReplicaInfo) -> Replica:
        known = self._fleet.replicas.get(info.name)
        api_key = self._credentials.of(info.url)
        replica = Replica(
            info.name, info.url, info.model, self._fleet.breaker(), profile=info.profile, info=info, api_key=api_key
        )
        if known is not None and known.info is not None:
            if _incarnation(known.info) == _incarnation(info):
                replica.take_over(known)
            else:
                known.lose("another one has taken its name")
        self._fleet.replicas[info.name] = replica
        if not (known is not None and known.alive):
            events.say(replica.joined)
        return replica

    # Who has gone

    def _miss(self, names: frozenset[str]) -> None:
        now_s = self._monotonic()
        missing = [r for r in self._fleet.living() if r.reports and r.name not in names]
        for replica in missing:
            since_s = self._missing.setdefault(replica.name, now_s)
            if since_s == now_s:
                self._later(self._lose_unless_it_answers(replica))
            elif now_s - since_s > PATIENCE_S:
                replica.leave("its heartbeat has ended")  # it drains, say: what it still answers is left alone
        gone = {replica.name for replica in missing if replica.alive}
        self._missing = {name: since_s for name, since_s in self._missing.items() if name in gone}

    async def _lose_unless_it_answers(self, replica: Replica) -> None:
        problem = await self._prober.healthy(replica.url)
        if problem and replica.draining and not replica.answers:
            replica.leave("it has drained and ended")
        elif problem:
            replica.lose(f"its heartbeat has ended, and at {replica.url} {problem}")

    # What they serve

    async def follow_names(self) -> None:
        """Read again what names replicas list, until cancelled: adapters come and go."""
        while True:
            await asyncio.gather(*(self._read_names(replica) for replica in self._fleet.living() if replica.reports))
            await asyncio.sleep(NAMES_S)

    async def _read_names(self, replica: Replica) -> None:
        seen = await self._prober.seen(replica.url, replica.authorization())
        if seen is not None and seen.names:
            replica.call(seen.names)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _incarnation(info: ReplicaInfo) -> tuple[str, float]:
    return info.instance, info.started_at_s
