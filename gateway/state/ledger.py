"""The shared state of all gateways, in Redis: who was admitted where, and who plans.

    slosgate:ledger:{replica}    hash request id -> LedgerEntry
    slosgate:version:{replica}   integer, one more with every admitted guarantee
    slosgate:commit:{replica}    id of the commit that made this version
    slosgate:changes:{gateway}   channel: each Change a gateway makes, so that the others hold the same ledgers
    slosgate:epoch:{replica}     integer, the newest plan's epoch
    slosgate:gateway:{id}        a gateway's heartbeat, expires

A guarantee is admitted by compare-and-set: the script commits only on the version *and* the commit that the decision
was made on. (A version alone would not do: when two commits of ours are under way and another gateway's comes between,
the first fails, but the second would find the number it expects.) Best effort needs no version: it promises nothing.

Commands that are issued while a round trip is under way leave together in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from slosgate.engines.channel import PLAN_TTL_MS, STORE_ERRORS, connect, key
from slosgate.engines.messages import Announcement, Plan

GATEWAY_TTL_MS = 1_500
QUIET_S = 0.5
FLUSH_S = 2.0  # how long a gateway that stops waits for Redis to take its last words


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One request on one replica, from admission until its answer has ended. Wall clock, seconds."""

    request_id: str
    gateway: str
    slo_class: str
    arrival_s: float
    has_slo: bool
    deadline_s: float  # when the first token is due; without an SLO, when nobody may overtake it any more
    tpot_s: float
    weight: float
    prompt_tokens: int
    output_tokens: int  # planning value
    acceptance: float
    guaranteed: bool
    dispatched_s: float
    decided_s: float  # when its gateway decided, and
    report_s: float  # the newest report of the replica that it then knew (`Telemetry.sent_at_s`): enough for an audit


class Head(NamedTuple):
    """What a decision was based on."""

    version: int
    commit: str


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one gateway did to one replica's ledger. `head` is set when the version moved."""

    replica: str
    gateway: str
    head: Head | None = None
    entries: tuple[LedgerEntry, ...] = ()
    removed: tuple[str, ...] = ()
    promote: bool = False  # the entries replace known ones


class Conflict(Exception):
    """Another gateway committed first: load the ledger and decide again."""


class StoreDown(Exception):
    """Redis can't be reached."""


_COMMIT = """
local version = tonumber(redis.call('GET', KEYS[1]) or '0')
local commit = redis.call('GET', KEYS[2]) or ''
if version ~= tonumber(ARGV[1]) or commit ~= ARGV[2] then return 0 end
for i = 6, #ARGV, 2 do
  if ARGV[5] == '0' or redis.call('HEXISTS', KEYS[3], ARGV[i]) == 1 then
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  end
end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('INCR', KEYS[1])
redis.call('PUBLISH', KEYS[4], ARGV[4])
return 1
"""

_ADD = """
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PUBLISH', KEYS[2], ARGV[1])
return 1
"""

_REMOVE = """
for i = 2, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('PUBLISH', KEYS[2], ARGV[1])
return 1
"""

_PLAN = """
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
"""


@dataclass(slots=True)
class _Command:
    arguments: tuple[Any, ...]
    result: asyncio.Future[Any] | None  # None: nobody waits for it


class Ledger:
    """One gateway's connection to the shared state. Every method raises StoreDown while Redis is away."""

    def __init__(self, url: str, gateway: str, *, timeout_s: float = 1.0) -> None:
        self.gateway = gateway
        self.redis = connect(url, timeout_s)
        self.available = False  # False: fail at once instead of waiting for a server that is not there
        self._connection = self.redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._returned = False
        self._queue: list[_Command] = []
        self._wake = asyncio.Event()
        self._commits = count(1)

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

    async def reconnect(self) -> None:
        """Redis was away: drop the idle connections that died with it, or the next to be used looks like another
        outage. (redis-py looks at a connection before it uses it, but not long enough to see that it has ended.)"""
        await self.redis.connection_pool.disconnect(inuse_connections=False)
        self._returned = True

    def next_commit(self) -> str:
        """A name for a commit that no other commit has."""
        return f"{self.gateway}:{next(self._commits)}"

    async def commit(
        self, replica: str, base: Head, head: Head, entries: tuple[LedgerEntry, ...], *, promote: bool = False
    ) -> None:
        """Admit guarantees on top of `base`, which makes `head`. Raises Conflict when `base` is not the newest.

        `promote`: the entries replace those of best-effort requests; one that has ended meanwhile stays away.
        """
        change = Change(replica=replica, gateway=self.gateway, head=head, entries=entries, promote=promote)
        keys = (key("version", replica), key("commit", replica), key("ledger", replica), key("changes", self.gateway))
        arguments = (base.version, base.commit, head.commit, _packed(change), int(promote), *_pairs(entries))
        if not await self._do("EVAL", _COMMIT, 4, *keys, *arguments):
            raise Conflict(replica)

    async def add(self, replica: str, entries: tuple[LedgerEntry, ...]) -> None:
        """Enter requests that need no compare-and-set: best effort, or ours that Redis lost."""
        change = Change(replica=replica, gateway=self.gateway, entries=entries)
        keys = (key("ledger", replica), key("changes", self.gateway))
        await self._do("EVAL", _ADD, 2, *keys, _packed(change), *_pairs(entries))

    def remove(self, replica: str, request_ids: tuple[str, ...]) -> None:
        """Strike requests off, without waiting. What is lost here is found when the ledger is next loaded."""
        change = Change(replica=replica, gateway=self.gateway, removed=request_ids)
        keys = (key("ledger", replica), key("changes", self.gateway))
        self._enqueue(_Command(("EVAL", _REMOVE, 2, *keys, _packed(change), *request_ids), None))

    def announce(self, replica: str, coming: Announcement) -> None:
        """Tell a replica who is on the way to it, without waiting; nothing is stored."""
        self._enqueue(_Command(("PUBLISH", key("arrivals", replica), msgspec.msgpack.encode(coming)), None))

    async def load(self, replica: str) -> tuple[Head, dict[str, LedgerEntry]]:
        """The ledger as it is now."""
        try:
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.get(key("version", replica))
                pipe.get(key("commit", replica))
                pipe.hgetall(key("ledger", replica))
                version, commit, entries = await pipe.execute()
        except STORE_ERRORS as exc:
            raise StoreDown(str(exc)) from exc
        decoded = (msgspec.msgpack.decode(value, type=LedgerEntry) for value in entries.values())
        return Head(int(version or 0), (commit or b"").decode()), {entry.request_id: entry for entry in decoded}

    async def publish_plan(self, plan: Plan) -> bool:
        """Make a plan its replica's newest; False when a newer epoch is already out."""
        keys = (key("epoch", plan.replica), key("plan", plan.replica))
        return bool(await self._do("EVAL", _PLAN, 2, *keys, plan.epoch, msgspec.msgpack.encode(plan), PLAN_TTL_MS))

    async def beat(self) -> frozenset[str]:
        """Say that this gateway lives; returns the gateways that do."""
        try:
            await self.redis.set(key("gateway", self.gateway), b"", px=GATEWAY_TTL_MS)
            prefix = key("gateway", "").encode()
            found = [k async for k in self.redis.scan_iter(match=key("gateway", "*"), count=1000)]
        except STORE_ERRORS as exc:
            raise StoreDown(str(exc)) from exc
        return frozenset(k.removeprefix(prefix).decode() for k in found)

    async def changes(self, gateways: frozenset[str]) -> AsyncGenerator[Change | None]:
        """What these gateways do to the ledgers, for ever; None once at the start, when nothing is missed any more, and
        whenever nothing happens for a while. Raises one of STORE_ERRORS when the connection breaks."""
        if not gateways:
            return
        async with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(*(key("changes", gateway) for gateway in gateways))
            for _ in gateways:
                await pubsub.get_message(timeout=QUIET_S)  # the confirmations
            yield None
            while True:
                message = await pubsub.get_message(timeout=QUIET_S)
                yield None if message is None else msgspec.msgpack.decode(message["data"], type=Change)

    async def _do(self, *arguments: Any) -> Any:
        if not self.available:
            raise StoreDown("Redis is away")
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(_Command(arguments, result))
        return await result

    def _enqueue(self, command: _Command) -> None:
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
                self.available = False
                _fail(batch, StoreDown(str(exc)))
                if not isinstance(exc, STORE_ERRORS):
                    raise

    async def _send(self, batch: list[_Command]) -> None:
        """One round trip, on a connection of our own: taking one from redis-py's pool costs a third of it."""
        if self._returned:
            self._returned = False
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


def _packed(change: Change) -> bytes:
    return msgspec.msgpack.encode(change)


def _pairs(entries: tuple[LedgerEntry, ...]) -> list[Any]:
    return [item for entry in entries for item in (entry.request_id, msgspec.msgpack.encode(entry))]
