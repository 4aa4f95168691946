"""The channel between gateways and replicas: Redis keys, who writes them, and the replica's end of it.

    slosgate:replica:{name}    ReplicaInfo, written by the replica, expires: its heartbeat
    slosgate:telemetry:{name}  latest Telemetry, and a channel of the same name that carries each one
    slosgate:plan:{name}       latest Plan, and a channel of the same name that carries each one
    slosgate:arrivals:{name}   channel: an Announcement of each request that a gateway sends there
    slosgate:ledger:{name}     hash request id -> ledger entry, written by gateways
    slosgate:version:{name}    integer, the ledger's version, written by gateways

Everything is msgpack. A key holds what a newcomer must know; the channel tells those who already listen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Literal, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from slosgate.engines.messages import Announcement, Plan, Telemetry
from slosgate.planner.profile import HardwareProfile

HEARTBEAT_S = 1.0
HEARTBEAT_TTL_MS = 3_000
TELEMETRY_TTL_MS = 10_000
PLAN_TTL_MS = 60_000
TELEMETRY_MIN_GAP_S = 0.020  # reports closer than this are merged, unless one is urgent
TELEMETRY_MAX_GAP_S = 0.500  # an idle replica still reports this often
RECONNECT_S = 0.25

# What a Redis that goes away under a command raises; RuntimeError is what uvloop says of a transport that closes.
STORE_ERRORS = (RedisError, OSError, RuntimeError)

Kind = Literal["replica", "telemetry", "plan", "arrivals", "ledger", "version", "commit", "changes", "epoch", "gateway"]

T = TypeVar("T")


class ReplicaInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica says about itself when it registers."""

    name: str
    url: str  # base address, without /v1
    model: str  # the name clients use
    profile: HardwareProfile
    engine: str  # "sim", "vllm", ...
    policy: str  # the scheduler that runs there
    started_at_s: float  # wall clock; a restart under the same name changes it
    supports_plans: bool  # False: the replica ignores plans, so only admission and routing reach it


def key(kind: Kind, name: str) -> str:
    """Where Redis holds what is listed above; `name` is a replica's or a gateway's."""
    return f"slosgate:{kind}:{name}"


def connect(url: str, timeout_s: float | None = None) -> Redis:
    """A client that fails at once when the server is away, and within `timeout_s` when it doesn't answer: callers
    decide when to try again."""
    return Redis.from_url(
        url, retry=Retry(NoBackoff(), 0), socket_timeout=timeout_s, socket_connect_timeout=timeout_s or 2.0,
        health_check_interval=0 if timeout_s else 5,
    )  # fmt: skip


async def live_replicas(redis: Redis) -> list[ReplicaInfo]:
    """Every replica with a heartbeat, sorted by name."""
    found = [k async for k in redis.scan_iter(match=key("replica", "*"), count=1000)]
    values = await redis.mget(found) if found else []
    infos = [_decoded(value, ReplicaInfo) for value in values if value is not None]
    return sorted(infos, key=lambda info: info.name)


async def latest_telemetry(redis: Redis, name: str) -> Telemetry | None:
    """The replica's last report; None when it is older than its expiry or never came."""
    value = await redis.get(key("telemetry", name))
    return None if value is None else _decoded(value, Telemetry)


async def latest_plan(redis: Redis, name: str) -> Plan | None:
    """The replica's newest plan; None when there is none."""
    value = await redis.get(key("plan", name))
    return None if value is None else _decoded(value, Plan)


async def send_plan(redis: Redis, plan: Plan) -> None:
    """Store a plan as its replica's newest and tell the replica."""
    await _store_and_tell(redis, key("plan", plan.replica), msgspec.msgpack.encode(plan), PLAN_TTL_MS)


async def send_telemetry(redis: Redis, report: Telemetry) -> None:
    """Store a report as its replica's latest and tell the gateways."""
    await _store_and_tell(redis, key("telemetry", report.replica), msgspec.msgpack.encode(report), TELEMETRY_TTL_MS)


async def _store_and_tell(redis: Redis, key: str, value: bytes, ttl_ms: int) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        pipe.set(key, value, px=ttl_ms)
        pipe.publish(key, value)
        await pipe.execute()


def _decoded(value: bytes | str, kind: type[T]) -> T:
    return msgspec.msgpack.decode(value.encode() if isinstance(value, str) else value, type=kind)


async def telemetry_reports(redis: Redis) -> AsyncIterator[Telemetry]:
    """Reports of all replicas as they come, for ever. Raises one of STORE_ERRORS when the connection breaks."""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.psubscribe(key("telemetry", "*"))
        async for report in _messages(pubsub, Telemetry):
            yield report


async def plans_for(redis: Redis, name: str) -> AsyncIterator[Plan]:
    """The newest plan of one replica, if there is one, then its plans as they come; one may come twice.

    Raises one of STORE_ERRORS when the connection breaks.
    """
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(key("plan", name))
        newest = await latest_plan(redis, name)
        if newest is not None:
            yield newest
        async for plan in _messages(pubsub, Plan):
            yield plan


async def arrivals_for(redis: Redis, name: str) -> AsyncIterator[Announcement]:
    """Who is sent to one replica, as gateways announce it. Raises one of STORE_ERRORS when the connection breaks."""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(key("arrivals", name))
        async for announcement in _messages(pubsub, Announcement):
            yield announcement


async def _messages(pubsub: PubSub, kind: type[T]) -> AsyncIterator[T]:
    while True:
        message = await pubsub.get_message(timeout=1.0)
        if message is not None:
            # A sender of another version must not cost the listener its connection.
            with contextlib.suppress(msgspec.ValidationError, msgspec.DecodeError):
                yield _decoded(message["data"], kind)


class ReplicaChannel:
    """A replica's end: registers, beats, reports, and hands plans over. Losing Redis never raises.

    While Redis is away `connected` is False and reports are dropped; when it is back the replica registers again
    and fetches the newest plan. `snapshot` builds a report, `on_plan` takes a plan, `on_arrival` hears who is on the
    way; all run on the event loop.
    """

    def __init__(
        self, url: str, info: ReplicaInfo, *, snapshot: Callable[[], Telemetry], on_plan: Callable[[Plan], None],
        on_arrival: Callable[[Announcement], None] | None = None,
    ) -> None:  # fmt: skip
        self._url = url
        self._info = info
        self._snapshot = snapshot
        self._on_plan = on_plan
        self._on_arrival = on_arrival
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self.connected = False

    def report(self, *, urgent: bool = False) -> None:
        """Ask for a report to be sent: soon, or at once when `urgent` (a request finished or was cancelled)."""
        self._news.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Serve until cancelled, then unregister if Redis is there."""
        while True:
            try:
                async with connect(self._url) as redis:
                    await self._serve(redis)
            except* STORE_ERRORS:
                self.connected = False
            await asyncio.sleep(RECONNECT_S)

    async def _serve(self, redis: Redis) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._beat(redis)
                self.connected = True
                tasks.create_task(self._keep_beating(redis))
                tasks.create_task(self._take_plans(redis))
                if self._on_arrival is not None:
                    tasks.create_task(self._hear_arrivals(redis, self._on_arrival))
                tasks.create_task(self._send_reports(redis))
        finally:
            # The server may be gone, which is one of the reasons to be here.
            with contextlib.suppress(*STORE_ERRORS):
                await redis.delete(key("replica", self._info.name), key("telemetry", self._info.name))

    async def _beat(self, redis: Redis) -> None:
        await redis.set(key("replica", self._info.name), msgspec.msgpack.encode(self._info), px=HEARTBEAT_TTL_MS)

    async def _keep_beating(self, redis: Redis) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._beat(redis)

    async def _take_plans(self, redis: Redis) -> None:
        async for plan in plans_for(redis, self._info.name):
            self._on_plan(plan)

    async def _hear_arrivals(self, redis: Redis, tell: Callable[[Announcement], None]) -> None:
        async for announcement in arrivals_for(redis, self._info.name):
            tell(announcement)

    async def _send_reports(self, redis: Redis) -> None:
        while True:
            await send_telemetry(redis, self._snapshot())
            self._news.clear()
            self._urgent.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), TELEMETRY_MIN_GAP_S)
            if not self._urgent.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), TELEMETRY_MAX_GAP_S - TELEMETRY_MIN_GAP_S)
