"""The channel between gateways and replicas: Redis keys, who writes them, and the replica's end of it.

    slosgate:replica:{name}    ReplicaInfo, written by the replica, expires: its heartbeat
    slosgate:rival:{name}      address of another replica that wanted this name, written by that one, expires
    slosgate:telemetry:{name}  channel: each Telemetry of the replica
    slosgate:plan:{name}       latest Plan, and a channel of the same name that carries each one
    slosgate:arrivals:{name}   channel: an Announcement of each request that a gateway sends there

What gateways share among themselves stands in gateway/state/ledger.py. Everything is msgpack, and read through
`engines/door.py`. A key holds what a newcomer must know; the channel tells those who already listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated, Literal, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Meta
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ResponseError

from slosgate.engines.cancelling import check_cancelled, failure_of
from slosgate.engines.door import Door, shown
from slosgate.engines.messages import Announcement, Moment, Plan, Telemetry
from slosgate.engines.store import STORE_ERRORS, connect, why
from slosgate.planner.plans import Name
from slosgate.planner.profile import HardwareProfile

HEARTBEAT_S = 1.0
HEARTBEAT_TTL_MS = 3_000
CLAIM_S = HEARTBEAT_TTL_MS / 1000 + 0.5  # a replica that died has let go of its name by then
CLAIM_POLL_S = 0.25
RIVAL_TTL_MS = 10_000
PLAN_TTL_MS = 60_000
TELEMETRY_MIN_GAP_S = 0.020  # reports closer than this are merged, unless one is urgent
TELEMETRY_MAX_GAP_S = 0.500  # an idle replica still reports this often
RECONNECT_S = 0.25

Kind = Literal[
    "replica",
    "rival",
    "telemetry",
    "plan",
    "arrivals",
    "ledger",
    "version",
    "log",
    "changes",
    "epoch",
    "gateway",
    "session",
]

T = TypeVar("T")

_log = logging.getLogger("slosgate")


class ReplicaInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica says about itself when it registers."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    url: Annotated[str, Meta(pattern=r"^https?://[^\s/?#]+[^\s?#]*$", max_length=2048)]  # base address, without /v1
    model: Name  # the name clients use
    profile: HardwareProfile
    engine: Name  # "sim", "vllm", ...
    policy: Name  # the scheduler that runs there
    started_at_s: Moment  # wall clock; a restart under the same name changes it
    supports_plans: bool  # False: the replica ignores plans, so only admission and routing reach it
    instance: Name = ""  # tells two replicas of one name apart


def key(kind: Kind, name: str) -> str:
    """Where Redis holds what is listed above; `name` is a replica's or a gateway's."""
    return f"slosgate:{kind}:{name}"


class Registered(msgspec.Struct, frozen=True):
    """The replicas that have a heartbeat now."""

    infos: tuple[ReplicaInfo, ...]  # of those whose record can be used, by name
    names: frozenset[str]  # of all


async def registered(redis: Redis, door: Door) -> Registered:
    """The replicas that are registered. Raises one of STORE_ERRORS."""
    prefix = key("replica", "").encode()
    found = sorted({k async for k in redis.scan_iter(match=key("replica", "*"), count=1000)})
    values = await redis.mget(found) if found else []
    names = [shown(k.removeprefix(prefix).decode(errors="replace")) for k in found]
    read = (_info(door, name, value) for name, value in zip(names, values, strict=True))
    return Registered(tuple(info for info in read if info is not None), frozenset(names))


def _info(door: Door, name: str, value: object) -> ReplicaInfo | None:
    if value is None:  # it has just expired, or is of another of Redis's types
        return None
    at = key("replica", name)
    info = door.read(at, value, ReplicaInfo)
    if info is None:
        return None
    problem = f"it says that its name is {info.name!r}" if info.name != name else info.profile.problem()
    if problem:
        door.refuse(at, problem)
        return None
    return info


async def telemetry_reports(redis: Redis, door: Door) -> AsyncGenerator[Telemetry]:
    """Reports of all replicas as they come, for ever. Raises one of STORE_ERRORS when the connection breaks."""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.psubscribe(key("telemetry", "*"))
        async for channel, report in _messages(pubsub, door, Telemetry):
            if channel == key("telemetry", report.replica):
                yield report
            else:
                door.refuse(channel, f"a report in the name of {report.replica!r}")


async def plans_for(redis: Redis, name: str, door: Door) -> AsyncIterator[Plan]:
    """The newest plan of one replica, if there is one, then its plans as they come; one may come twice.

    Raises one of STORE_ERRORS when the connection breaks.
    """
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(key("plan", name))
        newest = await _latest_plan(redis, name, door)
        if newest is not None:
            yield newest
        async for _, plan in _messages(pubsub, door, Plan):
            yield plan


async def _latest_plan(redis: Redis, name: str, door: Door) -> Plan | None:
    at = key("plan", name)
    try:
        value = await redis.get(at)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        door.refuse(at, str(error))
        return None
    return None if value is None else door.read(at, value, Plan)


async def arrivals_for(redis: Redis, name: str, door: Door) -> AsyncIterator[Announcement]:
    """Requests that are sent to one replica, as gateways announce them.

    Raises one of STORE_ERRORS when the connection breaks.
    """
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(key("arrivals", name))
        async for _, announcement in _messages(pubsub, door, Announcement):
            yield announcement


async def _messages(pubsub: PubSub, door: Door, kind: type[T]) -> AsyncIterator[tuple[str, T]]:
    """(channel, message), as they come."""
    while True:
        check_cancelled()
        message = await pubsub.get_message(timeout=1.0)
        if message is not None:
            channel = message["channel"].decode(errors="replace")
            read = door.read(channel, message["data"], kind)
            if read is not None:
                yield channel, read


# Unregisters a replica, unless its name is another's by now.
_LEAVE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class ReplicaChannel:
    """A replica's end: registers, beats, reports, and hands plans over. Losing Redis never raises.

    While Redis is away `connected` is False and reports are dropped; when it is back the replica registers again
    and fetches the newest plan. `snapshot` builds a report, `on_plan` takes a plan, `on_arrival` hears what is on its
    way; all run on the event loop.

    A name belongs to the replica that had it first, for as long as that one lives. Another that asks for it registers
    under a longer one, and both are told in their logs.
    """

    def __init__(
        self, url: str, info: ReplicaInfo, *, snapshot: Callable[[], Telemetry], on_plan: Callable[[Plan], None],
        on_arrival: Callable[[Announcement], None] | None = None,
    ) -> None:  # fmt: skip
        self._url = url
        self._asked = info.name
        self._info = msgspec.structs.replace(info, instance=info.instance or uuid4().hex)
        self._owns = False  # the name it registers under
        self._snapshot = snapshot
        self._on_plan = on_plan
        self._on_arrival = on_arrival
        self._door = Door()
        self._rival = ""  # the last one that was told of
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self._trouble = ""  # why Redis is away, if it is
        self.connected = False

    @property
    def name(self) -> str:
        """What it is registered as."""
        return self._info.name

    def report(self, *, urgent: bool = False) -> None:
        """Ask for a report to be sent: soon, or at once when `urgent` (a request finished or was cancelled)."""
        self._news.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Serve until cancelled, then unregister if Redis is there."""
        while True:
            error = await failure_of(self._connected())
            if error is not None:  # whatever it was: a replica that is not seen is worse
                self._note_trouble(error)
            await asyncio.sleep(RECONNECT_S)

    async def _connected(self) -> None:
        async with connect(self._url) as redis:
            await self._serve(redis)

    def _note_trouble(self, error: BaseException) -> None:
        self.connected = False
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        trouble = why(error)
        if isinstance(error, STORE_ERRORS) and trouble != self._trouble:
            _log.warning("replica %s can't reach Redis: %s", self._info.name, shown(trouble))
        elif not isinstance(error, STORE_ERRORS):
            _log.error("the channel of replica %s failed and begins again", self._info.name, exc_info=error)
        self._trouble = trouble

    async def _serve(self, redis: Redis) -> None:
        if not self._owns:
            await self._claim(redis)
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._beat(redis)
                check_cancelled()
                self._note_connected()
                tasks.create_task(self._keep_beating(redis))
                tasks.create_task(self._take_plans(redis))
                if self._on_arrival is not None:
                    tasks.create_task(self._hear_arrivals(redis, self._on_arrival))
                tasks.create_task(self._send_reports(redis))
        except asyncio.CancelledError:
            with contextlib.suppress(*STORE_ERRORS):
                await redis.eval(_LEAVE, 1, key("replica", self.name), self._packed())
            raise

    def _note_connected(self) -> None:
        if self._trouble:
            _log.warning("replica %s reaches Redis again", self._info.name)
        self._trouble = ""
        self.connected = True

    def _packed(self) -> bytes:
        return msgspec.msgpack.encode(self._info)

    async def _claim(self, redis: Redis) -> None:
        """Take the name it was given. One that died under it lets go of it within CLAIM_S; one that lives keeps it."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + CLAIM_S
        while not await redis.set(key("replica", self.name), self._packed(), px=HEARTBEAT_TTL_MS, nx=True):
            if loop.time() > end_s:
                await self._evade(redis)
                break
            await asyncio.sleep(CLAIM_POLL_S)
        self._owns = True

    async def _evade(self, redis: Redis) -> None:
        """Another replica lives under our name: take one of our own."""
        value = await redis.get(key("replica", self._asked))
        other = self._door.read(key("replica", self._asked), value, ReplicaInfo) if value else None
        self._info = msgspec.structs.replace(self._info, name=f"{self._asked}~{self._info.instance[:6]}")
        _log.warning(
            "two replicas claim the name %r: %s has it, and %s registers as %r; give each its own with --name",
            self._asked, other.url if other else "another one", self._info.url, self.name,
        )  # fmt: skip

    async def _beat(self, redis: Redis) -> None:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.set(key("replica", self.name), self._packed(), px=HEARTBEAT_TTL_MS)
            if self.name != self._asked:
                pipe.set(key("rival", self._asked), self._info.url, px=RIVAL_TTL_MS)
            pipe.get(key("rival", self.name))
            *written, rival = await pipe.execute(raise_on_error=False)
        for failure in written:
            if isinstance(failure, Exception):
                raise failure
        if isinstance(rival, bytes) and (other := shown(rival.decode(errors="replace"))) != self._rival:
            self._rival = other
            _log.warning(
                "two replicas claim the name %r: %s has it, and %s wants it, too; give each its own with --name",
                self.name, self._info.url, other,
            )  # fmt: skip

    async def _keep_beating(self, redis: Redis) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            check_cancelled()
            await self._beat(redis)

    async def _take_plans(self, redis: Redis) -> None:
        async for plan in plans_for(redis, self.name, self._door):
            self._hand_over(self._on_plan, plan, "plan")

    async def _hear_arrivals(self, redis: Redis, tell: Callable[[Announcement], None]) -> None:
        async for announcement in arrivals_for(redis, self.name, self._door):
            self._hand_over(tell, announcement, "arrivals")

    def _hand_over(self, take: Callable[[T], object], message: T, kind: Kind) -> None:
        try:
            take(message)
        except Exception as error:  # a message that makes no sense to the engine costs itself alone
            self._door.refuse(key(kind, self.name), f"the engine can't use it: {type(error).__name__}: {error}")

    async def _send_reports(self, redis: Redis) -> None:
        while True:
            check_cancelled()
            report = msgspec.structs.replace(self._snapshot(), replica=self.name)
            await redis.publish(key("telemetry", self.name), msgspec.msgpack.encode(report))
            self._news.clear()
            self._urgent.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELEMETRY_MIN_GAP_S):
                    await self._urgent.wait()
            if not self._urgent.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TELEMETRY_MAX_GAP_S - TELEMETRY_MIN_GAP_S):
                        await self._news.wait()
