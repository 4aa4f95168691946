"""The shared state of all gateways, in Redis: who was admitted where, and who plans.

    slosgate:ledger:{replica}    hash request id -> LedgerEntry
    slosgate:version:{replica}   integer, one more with every guarantee
    slosgate:log:{replica}       sorted set of the latest guarantees' request ids, by version
    slosgate:changes:{gateway}   channel: "VERSION CHANGE", so that the others hold the same ledgers; 0: no new one
    slosgate:epoch:{replica}     integer, the newest plan's epoch
    slosgate:gateway:{id}        a gateway's heartbeat, expires
    slosgate:session:{slot}      what is remembered of a session (gateway/state/sessions.py), expires

Guarantees of one replica are numbered by Redis, in the order in which it takes them, and each answers for room beside
those before it. A commit names the version that its decision was made on, and is told of the guarantees in between:
if there are any, its gateway looks whether there still is room, and withdraws if not. So a commit takes one round
trip, however many gateways decide at once and however far Redis is. A promotion can wait, and is made by
compare-and-set on the version. Best effort needs no version: it promises nothing.

Commands that are issued while a round trip is under way leave together in the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from slosgate.engines.channel import PLAN_TTL_MS, key
from slosgate.engines.door import Door
from slosgate.engines.messages import Announcement, Plan
from slosgate.engines.store import STORE_ERRORS, connect, why
from slosgate.gateway.reports import events
from slosgate.gateway.state import scripts
from slosgate.gateway.state.records import Beat, Change, LedgerEntry
from slosgate.gateway.state.skew import Ahead

GATEWAY_TTL_MS = 1_500
QUIET_S = 0.5
MOST_WRITTEN = 4096  # entries of ours that are remembered as they are stored
FLUSH_S = 2.0  # how long a gateway that stops waits for Redis to take its last words


class Conflict(Exception):
    """Another gateway's guarantees came first: decide again, on what is known now."""


class StoreDown(Exception):
    """Redis can't be reached."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What Redis says to a guarantee: its number, and what was guaranteed since the version it was decided on.

    Among these are guarantees of our own that were on their way, and requests of ours that another gateway promoted.
    """

    version: int
    missed: tuple[LedgerEntry, ...]


@dataclass(slots=True)
class _Command:
    arguments: tuple[Any, ...]
    result: asyncio.Future[Any] | None  # None: nobody waits for it


class Ledger:
    """One gateway's connection to the shared state. Every method raises StoreDown while Redis is away.

    `clock` is the gateway's own. What other gateways have written is given in its terms.
    """

    def __init__(
        self, url: str, gateway: str, *, timeout_s: float = 1.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.gateway = gateway
        self.redis = connect(url, timeout_s)
        self.door = Door()
        self.available = False  # False: fail at once instead of waiting for a server that is not there
        self._clock = clock
        self._ahead = Ahead()
        self._theirs: dict[str, float] = {}  # how far the clocks of other gateways are ahead of Redis's
        self._connection = self.redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._stale = False  # the connection above may lead to a server that is no longer the one
        self._reconnected = asyncio.Event()
        self._trouble = ""  # why Redis is away, if it is
        self._away_since_s = 0.0
        self._written: OrderedDict[bytes, LedgerEntry] = OrderedDict()  # what we have entered of late, as it is stored
        self._queue: list[_Command] = []
        self._wake = asyncio.Event()

    async def flush(self) -> None:
        """Wait until everything queued so far has been sent, unless Redis is away."""
        with suppress(StoreDown, TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._do("PING")

    async def close(self) -> None:
        with suppress(*STORE_ERRORS):
            await self.redis.delete(key("gateway", self.gateway))
        await self._connection.disconnect(nowait=True)
        await self.redis.aclose()

    # Whether Redis is there

    async def lost(self, error: Exception) -> None:
        """Redis is away. Connections are dropped: one that stays open may lead to a server that takes no writes now,
        while a new one to the same address leads to the one that does."""
        self._note_trouble(error)
        self._stale = True
        with suppress(*STORE_ERRORS):
            await self.redis.connection_pool.disconnect(inuse_connections=False)

    async def found(self) -> None:
        """Redis is there (again)."""
        # The connections that died with the old one would look like another outage.
        await self.redis.connection_pool.disconnect(inuse_connections=False)
        self._stale = True
        self._ahead.forget()
        self._reconnected.set()
        self._reconnected = asyncio.Event()
        self.available = True
        if self._trouble:
            events.say(events.RedisBack(away_s=self._clock() - self._away_since_s))
        self._trouble = ""

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends, or until Redis has been away: what was subscribed to before is lost then."""
        running = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self._reconnected.wait())
        try:
            await asyncio.wait((running, ended), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
        finally:
            for task in (running, ended):
                task.cancel()
            with suppress(asyncio.CancelledError, StoreDown, *STORE_ERRORS):
                await running

    def _note_trouble(self, error: Exception) -> None:
        self.available = False
        trouble = why(error)
        if not self._trouble:
            self._away_since_s = self._clock()
        if trouble != self._trouble:
            events.say(events.RedisAway(why=trouble))
        self._trouble = trouble

    # Ledgers

    async def commit(self, replica: str, known: int, entry: LedgerEntry) -> Committed:
        """Give a guarantee that was decided on version `known` of the replica's ledger."""
        change = Change(replica=replica, gateway=self.gateway, entries=(entry,))
        arguments = (scripts.TTL_MS, known, msgspec.msgpack.encode(change), *self._pairs((entry,)))
        version, _, *found = await self._script(scripts.COMMIT, self._commit_keys(replica), *arguments)
        return Committed(int(version), tuple(e for e in self._entries(replica, found) if e.guaranteed))

    async def promote(self, replica: str, known: int, entries: tuple[LedgerEntry, ...]) -> int:
        """Guarantee requests that were best effort, if the ledger still is at version `known`, else raise Conflict.

        One that has ended meanwhile stays away. Returns the new version.
        """
        change = Change(replica=replica, gateway=self.gateway, entries=entries, promote=True)
        arguments = (scripts.TTL_MS, known, msgspec.msgpack.encode(change), *self._pairs(entries))
        if not await self._script(scripts.PROMOTE, self._commit_keys(replica), *arguments):
            raise Conflict(replica)
        return known + len(entries)

    async def add(self, replica: str, entries: tuple[LedgerEntry, ...]) -> None:
        """Enter requests that need no version: best effort, or ours that Redis lost."""
        change = Change(replica=replica, gateway=self.gateway, entries=entries)
        arguments = (scripts.TTL_MS, msgspec.msgpack.encode(change), *self._pairs(entries))
        await self._script(scripts.ADD, self._add_keys(replica), *arguments)

    def remove(self, replica: str, request_ids: tuple[str, ...]) -> None:
        """Strike requests off, without waiting. What is lost here is found when the ledger is next loaded."""
        change = msgspec.msgpack.encode(Change(replica=replica, gateway=self.gateway, removed=request_ids))
        self._enqueue(_Command(("EVAL", scripts.REMOVE, 2, *self._add_keys(replica), change, *request_ids), None))

    def keep(self, replicas: Iterable[str]) -> None:
        """The ledgers of these replicas are in use: keep them from expiring, without waiting."""
        for replica in replicas:
            for kept in self._commit_keys(replica)[:3]:
                self._enqueue(_Command(("PEXPIRE", kept, scripts.TTL_MS), None))

    def announce(self, replica: str, coming: Announcement) -> None:
        """Tell a replica who is on the way to it, without waiting; nothing is stored."""
        self._enqueue(_Command(("PUBLISH", key("arrivals", replica), msgspec.msgpack.encode(coming)), None))

    async def load(self, replica: str) -> tuple[int, dict[str, LedgerEntry]]:
        """The ledger as it is now: its version and its entries."""
        try:
            version, found = await self.redis.eval(scripts.LOAD, 3, *self._commit_keys(replica)[:3])
        except STORE_ERRORS as exc:
            raise StoreDown(str(exc)) from exc
        entries = {}
        for name, value in zip(found[::2], found[1::2], strict=True):
            for entry in self._entries(replica, (value,)):
                if entry.request_id.encode() == name:
                    entries[entry.request_id] = entry
                else:
                    self.door.refuse(key("ledger", replica), f"an entry says that it is {entry.request_id!r}")
        return int(version), entries

    def _entries(self, replica: str, values: Iterable[bytes]) -> list[LedgerEntry]:
        """The entries that can be read, in terms of our clock; our own need not be read."""
        found = []
        for value in values:
            entry = self._written.get(value)
            if entry is None and (read := self.door.read(key("ledger", replica), value, LedgerEntry)) is not None:
                entry = self._in_our_time(read)
            if entry is not None:
                found.append(entry)
        return found

    def _pairs(self, entries: tuple[LedgerEntry, ...]) -> list[Any]:
        """Ids and entries in turn, as they are stored."""
        pairs: list[Any] = []
        for entry in entries:
            packed = msgspec.msgpack.encode(entry)
            self._written[packed] = entry
            if len(self._written) > MOST_WRITTEN:
                self._written.popitem(last=False)
            pairs += (entry.request_id, packed)
        return pairs

    def _in_our_time(self, entry: LedgerEntry) -> LedgerEntry:
        if entry.gateway == self.gateway or entry.gateway not in self._theirs:
            return entry
        return entry.later(self._ahead.seconds - self._theirs[entry.gateway])

    # What else gateways share

    async def read(self, at: str) -> bytes | None:
        """What a key of Redis holds; None for nothing."""
        found = await self._do("GET", at)
        return found if isinstance(found, bytes) else None

    def write(self, at: str, value: bytes, ttl_ms: int) -> None:
        """Have a key hold a value for a while, without waiting."""
        self._enqueue(_Command(("SET", at, value, "PX", ttl_ms), None))

    # Plans, gateways, changes

    async def publish_plan(self, plan: Plan) -> int:
        """Make a plan its replica's newest. Returns the newest epoch: another when a newer one is out."""
        keys = (key("epoch", plan.replica), key("plan", plan.replica))
        arguments = (plan.epoch, msgspec.msgpack.encode(plan), PLAN_TTL_MS, scripts.TTL_MS)
        return int(await self._script(scripts.PLAN, keys, *arguments))

    async def beat(self) -> frozenset[str]:
        """Say that this gateway lives; returns the gateways that do."""
        try:
            await self._say_that_we_live()
            found = [k async for k in self.redis.scan_iter(match=key("gateway", "*"), count=1000)]
            values = await self.redis.mget(found) if found else []
        except STORE_ERRORS as exc:
            raise StoreDown(why(exc)) from exc
        prefix = key("gateway", "").encode()
        names = [k.removeprefix(prefix).decode(errors="replace") for k in found]
        return frozenset(name for name, value in zip(names, values, strict=True) if self._lives(name, value))

    async def _say_that_we_live(self) -> None:
        sent_s = self._clock()
        beat = msgspec.msgpack.encode(Beat(ahead_s=self._ahead.seconds))
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.set(key("gateway", self.gateway), beat, px=GATEWAY_TTL_MS)
            pipe.time()
            _, (seconds, microseconds) = await pipe.execute()
        self._ahead.observe(sent_s, seconds + microseconds / 1e6, self._clock())

    def _lives(self, name: str, value: object) -> bool:
        """Whether a heartbeat is one; that of a gateway which we know need not be readable."""
        if value is None or value == b"":  # it has just expired, or comes from a version that says no more
            return value is not None or name in self._theirs
        beat = self.door.read(key("gateway", name), value, Beat)
        if beat is not None:
            self._theirs[name] = beat.ahead_s
        return name in self._theirs

    def forget(self, gateways: Iterable[str]) -> None:
        """These gateways are gone."""
        for name in gateways:
            self._theirs.pop(name, None)

    async def changes(self, gateways: frozenset[str]) -> AsyncGenerator[tuple[int, Change] | None]:
        """What these gateways do to the ledgers, for ever: (version, or 0; change). None once at the start, when
        nothing is missed any more, and whenever nothing happens for a while. Raises one of STORE_ERRORS when the
        connection breaks."""
        if not gateways:
            return
        async with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(*(key("changes", gateway) for gateway in gateways))
            for _ in gateways:
                await pubsub.get_message(timeout=QUIET_S)  # the confirmations
            yield None
            while True:
                message = await pubsub.get_message(timeout=QUIET_S)
                if message is None:
                    yield None
                elif (found := self._change(message)) is not None:
                    yield found

    def _change(self, message: dict[str, Any]) -> tuple[int, Change] | None:
        channel = message["channel"].decode(errors="replace")
        version, _, packed = message["data"].partition(b" ")
        if not version.isdigit():
            self.door.refuse(channel, "a change without a version")
            return None
        change = self.door.read(channel, packed, Change)
        if change is None:
            return None
        entries = tuple(self._in_our_time(entry) for entry in change.entries)
        return int(version), msgspec.structs.replace(change, entries=entries)

    # The way there

    def _commit_keys(self, replica: str) -> tuple[str, str, str, str]:
        kept = (key("version", replica), key("log", replica), key("ledger", replica))
        return (*kept, key("changes", self.gateway))

    def _add_keys(self, replica: str) -> tuple[str, str]:
        return key("ledger", replica), key("changes", self.gateway)

    async def _script(self, script: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        return await self._do("EVAL", script, len(keys), *keys, *arguments)

    async def _do(self, *arguments: Any) -> Any:
        if not self.available:
            raise StoreDown("Redis is away")
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(_Command(arguments, result))
        return await result

    def _enqueue(self, command: _Command) -> None:
        if self.available or command.result is not None:
            self._queue.append(command)
            self._wake.set()

    async def run(self) -> None:
        """Send what is queued, one round trip after the other, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, []
            try:
                await self._send(batch)
            except Exception as exc:
                self._note_trouble(exc)
                _fail(batch, StoreDown(str(exc)))
                if not isinstance(exc, STORE_ERRORS):
                    raise

    async def _send(self, batch: list[_Command]) -> None:
        """One round trip, on a connection of our own: taking one from redis-py's pool costs a third of it."""
        if self._stale:
            self._stale = False
            await self._connection.disconnect(nowait=True)
        packed = self._connection.pack_commands([command.arguments for command in batch])
        await self._connection.send_packed_command(packed, check_health=False)
        for command in batch:
            error, result = None, None
            try:
                result = await self._connection.read_response()
            except ResponseError as exc:
                error = StoreDown(str(exc))
            if command.result is None or command.result.done():
                continue
            if error is not None:
                command.result.set_exception(error)
            else:
                command.result.set_result(result)


def _fail(batch: list[_Command], error: Exception) -> None:
    for command in batch:
        if command.result is not None and not command.result.done():
            command.result.set_exception(error)
