"""The replicas a gateway knows: who lives, what each is doing, and what all gateways have promised there.

Replicas announce themselves in Redis (engines/channel.py). Servers without the plug-in come from the configuration
and are asked for their health; what they are doing is told from the answers that pass through this gateway.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from slosgate.engines import profiles
from slosgate.engines.channel import STORE_ERRORS, ReplicaInfo, live_replicas, telemetry_reports
from slosgate.engines.messages import DraftReport
from slosgate.gateway.background import kept_up
from slosgate.gateway.config import ReplicaConfig
from slosgate.gateway.replicas.breaker import Breaker, State
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.replicas.prefixes import Hashes, Prefixes
from slosgate.gateway.replicas.upstream import Upstream, UpstreamError
from slosgate.gateway.state.ledger import Change, Head, Ledger, LedgerEntry, StoreDown
from slosgate.planner.profile import HardwareProfile

SCAN_S = 0.4
RESUBSCRIBE_S = 0.2
RETURN_GRACE_S = 3.5  # a Redis that came back empty hears of its replicas within this
SILENT_S = 2.0  # a replica that reports, and hasn't for so long, may hang: several times its longest pause
PROBE_S = 1.0
PROBE_TIMEOUT_S = 2.0
PROBE_FAILURES = 2  # so many in a row and a server is down


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Answer(Protocol):
    """One answer under way, as far as the fleet needs it."""

    prompt_tokens: int
    tokens: int

    def cut(self, reason: str) -> None: ...

    def promote(self) -> None: ...


class Replica:
    """One server. `mirror` is None when its hardware profile is unknown: it gets best effort only."""

    def __init__(
        self, name: str, url: str, model: str, breaker: Breaker, *, profile: HardwareProfile | None,
        supports_plans: bool, reports: bool,
    ) -> None:  # fmt: skip
        self.name = name
        self.url = url.rstrip("/")
        self.model = model
        self.mirror = Mirror(profile) if profile else None
        self.supports_plans = supports_plans
        self.reports = reports  # sends telemetry
        self.alive = True
        self.started_at_s = 0.0
        self.breaker = breaker
        self.prefixes = Prefixes()
        self.own: dict[str, LedgerEntry] = {}  # what this gateway answers for
        self.answers: dict[str, Answer] = {}

    @property
    def plans(self) -> bool:
        """Whether it carries out plans; otherwise slosgate only admits and routes."""
        return self.supports_plans and self.reports

    def silent(self, now_s: float) -> bool:
        """Whether its reports have stopped, which shows sooner than the end of its heartbeat."""
        heard_s = self.mirror.heard_s if self.mirror else -math.inf
        return self.reports and math.isfinite(heard_s) and now_s - heard_s > SILENT_S

    def enter(self, entry: LedgerEntry) -> None:
        self.own[entry.request_id] = entry
        if self.mirror:
            self.mirror.add(entry)

    def promote(self, entry: LedgerEntry) -> None:
        """A best-effort request is guaranteed from now on, if it is still here."""
        if entry.request_id in self.own:
            self.own[entry.request_id] = entry
        if answer := self.answers.get(entry.request_id):
            answer.promote()
        if self.mirror and entry.request_id in self.mirror.entries:
            self.mirror.add(entry)

    def strike(self, request_id: str, now_s: float) -> bool:
        """Forget a request of ours; False when it was not here."""
        if self.mirror:
            self.mirror.drop(request_id, now_s)
        return self.own.pop(request_id, None) is not None

    def observe(self) -> None:
        """For a server that reports nothing: tell from the answers that pass through how far its jobs are."""
        if self.reports or self.mirror is None:
            return
        for request_id, answer in self.answers.items():
            if answer.tokens and request_id in self.mirror.jobs:
                job = self.mirror.jobs[request_id]
                job["prompt_left"], job["generated"] = 0, answer.tokens
                job["context"] = answer.prompt_tokens + answer.tokens
        profile = self.mirror.profile
        used = sum(profile.blocks_for(int(context)) for context in self.mirror.jobs.rows["context"])
        self.mirror.free_blocks = max(0, profile.kv_blocks - used)

    def lose(self) -> None:
        """It is gone: nothing new goes there, and the answers under way are cut."""
        self.alive = False
        for answer in list(self.answers.values()):
            answer.cut("lost")


class Fleet:
    def __init__(
        self,
        ledger: Ledger,
        upstream: Upstream,
        configured: tuple[ReplicaConfig, ...],
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.ledger = ledger
        self.replicas: dict[str, Replica] = {}
        self.gateways: frozenset[str] = frozenset()
        self._upstream = upstream
        self._configured = configured
        self._clock = clock
        self._random = random
        self.breaks = 0  # times that a breaker has opened
        self._returned_s = 0.0
        self._listeners: list[Callable[[Replica], None]] = []
        self._draft_listeners: list[Callable[[Replica, Iterable[DraftReport]], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def on_news(self, listener: Callable[[Replica], None]) -> None:
        """Call `listener` with a replica whose jobs have changed."""
        self._listeners.append(listener)

    def on_drafts(self, listener: Callable[[Replica, Iterable[DraftReport]], None]) -> None:
        """Call `listener` with what replicas report of their drafts."""
        self._draft_listeners.append(listener)

    def tell(self, replica: Replica) -> None:
        for listener in self._listeners:
            listener(replica)

    def living(self) -> Iterator[Replica]:
        return (replica for replica in self.replicas.values() if replica.alive)

    def serving(self, model: str, tried: frozenset[str] = frozenset()) -> list[Replica]:
        """Living replicas of a model that have not been tried; those that keep failing, or have fallen silent, only if
        there is no other."""
        fit = [r for r in self.living() if r.model == model and r.name not in tried]
        now_s = self._clock()
        return [r for r in fit if r.breaker.state(now_s) is not State.OPEN and not r.silent(now_s)] or fit

    def dispatched(self, replica: Replica, prefix: Hashes = ()) -> None:
        """A request leaves for the replica; `succeeded` or `failed` follows, unless its client hangs up."""
        replica.breaker.dispatched(self._clock())
        replica.prefixes.note(prefix)

    def succeeded(self, replica: Replica) -> None:
        replica.breaker.succeeded()

    def failed(self, replica: Replica) -> None:
        self.breaks += replica.breaker.failed(self._clock())

    async def run(self) -> None:
        """Keep everything up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self.ledger.run, self._watch, self._follow_reports, self._follow_changes):
                tasks.create_task(kept_up(work))
            for number, configured in enumerate(self._configured):
                tasks.create_task(kept_up(partial(self._watch_server, configured, number)))

    # Replicas that announce themselves

    async def _watch(self) -> None:
        while True:
            try:
                gateways = await self.ledger.beat()
                if not self.ledger.available:
                    await self._recover()
                await self._refresh(await live_replicas(self.ledger.redis))
                self._strike_dead(gateways)
            except (StoreDown, msgspec.DecodeError, *STORE_ERRORS):
                self.ledger.available = False
            await asyncio.sleep(SCAN_S)

    async def _recover(self) -> None:
        """Redis is there (again): it may have lost what we promised, and we may have missed what others did."""
        self._returned_s = self._clock()
        await self.ledger.reconnect()
        self.ledger.available = True
        for replica in list(self.living()):
            await self.reload(replica, restore=True)

    async def _refresh(self, infos: list[ReplicaInfo]) -> None:
        for info in infos:
            known = self.replicas.get(info.name)
            if known is None or not known.alive or known.started_at_s != info.started_at_s:
                await self._welcome(info, known)
        if self._clock() - self._returned_s < RETURN_GRACE_S:
            return
        beating = {info.name for info in infos}
        for replica in list(self.living()):
            if replica.reports and replica.name not in beating:
                replica.alive = False
                self._later(self._lose_unless_it_answers(replica))

    async def _welcome(self, info: ReplicaInfo, known: Replica | None) -> None:
        if known is not None and known.started_at_s != info.started_at_s:
            known.lose()
        replica = Replica(
            info.name, info.url, info.model, Breaker(self._random),
            profile=info.profile, supports_plans=info.supports_plans, reports=True,
        )  # fmt: skip
        replica.started_at_s = info.started_at_s
        if known is not None and known.started_at_s == info.started_at_s:
            replica.own, replica.answers, replica.breaker = known.own, known.answers, known.breaker
            replica.prefixes = known.prefixes
        self.replicas[info.name] = replica
        await self.reload(replica, restore=self.ledger.available)

    async def _lose_unless_it_answers(self, replica: Replica) -> None:
        """A heartbeat that ends may mean a replica that drains: what it still answers is left alone."""
        if not await self._healthy(replica.url):
            replica.lose()

    async def reload(self, replica: Replica, *, restore: bool = False) -> None:
        """Take the ledger of a replica from Redis. `restore` also puts back what Redis should hold of ours."""
        if replica.mirror is None:
            return
        head, entries = await self.ledger.load(replica.name)
        stray = tuple(i for i, e in entries.items() if e.gateway == self.ledger.gateway and i not in replica.own)
        if stray:
            self.ledger.remove(replica.name, stray)
        missing = tuple(e for i, e in replica.own.items() if i not in entries)
        kept = {i: e for i, e in entries.items() if i not in stray}
        replica.mirror.load(head, kept | replica.own, self._clock())
        if restore and missing:
            await self.ledger.add(replica.name, missing)

    async def _follow_reports(self) -> None:
        while True:
            with suppress(*STORE_ERRORS, msgspec.DecodeError):
                async for report in telemetry_reports(self.ledger.redis):
                    replica = self.replicas.get(report.replica)
                    if replica is not None and replica.mirror is not None:
                        replica.mirror.take(report, self._clock())
                        for listener in self._draft_listeners:
                            listener(replica, report.drafts)
                        self.tell(replica)
            await asyncio.sleep(RESUBSCRIBE_S)

    # Other gateways

    async def _follow_changes(self) -> None:
        """Follow the other gateways, as long as the same ones live; one that works alone hears nothing."""
        while True:
            others = self.gateways - {self.ledger.gateway}
            with suppress(*STORE_ERRORS, msgspec.DecodeError, StoreDown):
                await self._follow(others)
            await asyncio.sleep(RESUBSCRIBE_S)

    async def _follow(self, others: frozenset[str]) -> None:
        async with aclosing(self.ledger.changes(others)) as changes:
            async for change in changes:
                if change is not None:
                    self._apply(change)
                else:
                    # Just subscribed, or all is quiet: what we may have missed is in Redis.
                    for replica in list(self.living()):
                        await self.reload(replica)
                if self.gateways - {self.ledger.gateway} != others:
                    return

    def _apply(self, change: Change) -> None:
        replica = self.replicas.get(change.replica)
        if replica is None or replica.mirror is None:
            return
        for entry in change.entries:
            if change.promote:
                replica.promote(entry)
            else:
                replica.mirror.add(entry)
        for request_id in change.removed:
            if request_id not in replica.own:
                replica.mirror.drop(request_id, self._clock())
        # Only the next version: a load that was overtaken by changes has put the mirror back behind them, and must not
        # look complete by what comes after. Our own commits then fail, and load it again.
        if change.head is not None and change.head.version == replica.mirror.head.version + 1:
            replica.mirror.head = Head(*change.head)
        self.tell(replica)

    def _strike_dead(self, gateways: frozenset[str]) -> None:
        """Free what a gateway that died had promised: its clients are gone, so its replicas have stopped."""
        self.gateways = gateways | {self.ledger.gateway}
        for replica in self.living():
            if replica.mirror is None:
                continue
            dead = tuple(i for i, e in replica.mirror.entries.items() if e.gateway not in self.gateways)
            for request_id in dead:
                replica.mirror.drop(request_id, self._clock())
            if dead:
                self.ledger.remove(replica.name, dead)
                self.tell(replica)

    # Servers from the configuration

    async def _watch_server(self, configured: ReplicaConfig, number: int) -> None:
        name = configured.name or f"server-{number}"
        profile = load_profile(configured.profile) if configured.profile else None
        failures = 0
        while True:
            model = await self._model_of(configured.url) if not configured.model else configured.model
            healthy = model is not None and await self._healthy(configured.url)
            known = self.replicas.get(name)
            failures = 0 if healthy else failures + 1
            if healthy and model is not None and (known is None or not known.alive):
                self.replicas[name] = Replica(
                    name, configured.url, model, Breaker(self._random),
                    profile=profile, supports_plans=False, reports=False,
                )  # fmt: skip
            elif known is not None and known.alive and failures >= PROBE_FAILURES:
                known.lose()
            await asyncio.sleep(PROBE_S)

    async def _healthy(self, url: str) -> bool:
        with suppress(UpstreamError):
            return (await self._upstream.fetch(url.rstrip("/"), "/health", timeout_s=PROBE_TIMEOUT_S))[0] < 500
        return False

    async def _model_of(self, url: str) -> str | None:
        """The first model that a server offers."""
        with suppress(UpstreamError, msgspec.MsgspecError, IndexError):
            _, body = await self._upstream.fetch(url.rstrip("/"), "/v1/models", timeout_s=PROBE_TIMEOUT_S)
            return msgspec.json.decode(body, type=_Models).data[0].id
        return None

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def load_profile(name: str) -> HardwareProfile:
    """A shipped profile by name, or one from a .json file. Raises ValueError (no such name), OSError (no such file)."""
    if name.endswith(".json"):
        return msgspec.json.decode(Path(name).read_bytes(), type=HardwareProfile)
    return profiles.load(name)
