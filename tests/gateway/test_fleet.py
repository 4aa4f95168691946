"""A gateway's view of its replicas, against a real Valkey: who lives, what the other gateways promised, who is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import pytest
from redis.asyncio import Redis

from slosgate.engines import profiles
from slosgate.engines.channel import key
from slosgate.gateway.replicas.breaker import Breaker
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.upstream import Upstream
from slosgate.gateway.state.ledger import Change, Head, Ledger, LedgerEntry
from tests.gateway.conftest import eventually, ledger_size
from tests.gateway.scripted import ScriptedReplica, good, scripted_replica
from tests.gateway.test_ledger import connected, entry


@dataclass
class Stream:
    """An answer under way."""

    prompt_tokens: int = 10
    tokens: int = 0
    cuts: list[str] = field(default_factory=list)
    promotions: int = 0

    def cut(self, reason: str) -> None:
        self.cuts.append(reason)

    def promote(self) -> None:
        self.promotions += 1


class Clock:
    """Wall clock, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@asynccontextmanager
async def running(redis_url: str, gateway: str, clock: Clock) -> AsyncIterator[Fleet]:
    ledger, upstream = Ledger(redis_url, gateway), Upstream(connect_timeout_s=1.0)
    fleet = Fleet(ledger, upstream, (), clock=clock)
    task = asyncio.create_task(fleet.run())
    try:
        yield fleet
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await upstream.close()
        await ledger.close()


@asynccontextmanager
async def known(
    redis_url: str, name: str, clock: Clock | None = None
) -> AsyncIterator[tuple[Fleet, Replica, ScriptedReplica]]:
    """A fleet with one replica that it knows."""
    gateway = f"gateway-of-{name}"
    async with (
        running(redis_url, gateway, clock or Clock()) as fleet,
        scripted_replica(redis_url, name, good()) as server,
    ):
        await eventually(lambda: name in fleet.replicas)
        yield fleet, fleet.replicas[name], server


async def stop_beating(server: ScriptedReplica) -> None:
    assert server.registered is not None
    server.registered.cancel()
    with suppress(asyncio.CancelledError):
        await server.registered


@pytest.mark.parametrize(("hangs", "cuts"), [(False, []), (True, ["lost"])], ids=["it drains", "it is gone"])
async def test_answers_of_a_replica_without_heartbeat_are_cut_only_if_it_is_gone(
    redis_url: str, model: str, hangs: bool, cuts: list[str]
) -> None:
    clock = Clock()
    async with known(redis_url, model, clock) as (fleet, replica, server):
        stream = replica.answers["x"] = Stream()
        clock.ahead_s = 10.0  # Redis has been there for a while
        server.hangs = hangs
        await stop_beating(server)
        await eventually(lambda: not replica.alive)
        assert list(fleet.living()) == []
        await asyncio.sleep(2.5 if hangs else 0.5)
        assert stream.cuts == cuts


async def test_a_replica_that_began_anew_has_lost_its_answers(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as (fleet, replica, server):
        stream = replica.answers["x"] = Stream()
        await stop_beating(server)
        async with scripted_replica(redis_url, model, good()) as again:
            await eventually(lambda: fleet.replicas[model].url == again.url)
            assert stream.cuts == ["lost"]
            assert fleet.replicas[model].answers == {}


async def test_just_after_redis_came_back_nobody_is_given_up(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as (_, replica, server):
        await stop_beating(server)
        await asyncio.sleep(1.5)
        assert replica.alive


@asynccontextmanager
async def neighbour(redis_url: str, name: str, fleet: Fleet) -> AsyncIterator[Ledger]:
    """Another gateway, alive and followed."""
    async with connected(redis_url, name) as ledger:

        async def beat() -> None:
            while True:
                await ledger.beat()
                await asyncio.sleep(0.2)

        beating = asyncio.create_task(beat())
        await eventually(lambda: name in fleet.gateways)
        await asyncio.sleep(0.8)  # until it is subscribed to
        yield ledger
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def told(redis_url: str, change: Change) -> None:
    async with Redis.from_url(redis_url) as redis:
        await redis.publish(key("changes", change.gateway), msgspec.msgpack.encode(change))


def mine(request_id: str, gateway: str, **changed: object) -> LedgerEntry:
    made = msgspec.structs.replace(entry(request_id, gateway=gateway), dispatched_s=time.time() + 3600)
    return msgspec.structs.replace(made, **changed)


async def test_only_the_next_version_of_a_ledger_is_taken_for_complete(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as (fleet, replica, _), neighbour(redis_url, f"b-{model}", fleet) as other:
        mirror = replica.mirror
        assert mirror is not None

        async def tell(name: str, version: int) -> Head:
            made = (mine(name, other.gateway, guaranteed=True),)
            await told(redis_url, Change(replica=model, gateway=other.gateway, head=Head(version, name), entries=made))
            await eventually(lambda: name in mirror.entries)
            return mirror.head

        assert await tell("first", 1) == Head(1, "first")
        assert await tell("skips one", 3) == Head(1, "first")
        assert await tell("comes late", 1) == Head(1, "first")
        assert await tell("second", 2) == Head(2, "second")


async def test_what_others_remove_is_gone_here_unless_we_answer_for_it(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as (fleet, replica, _), neighbour(redis_url, f"b-{model}", fleet) as other:
        mirror = replica.mirror
        assert mirror is not None
        replica.enter(mine("ours", fleet.ledger.gateway))
        await other.add(model, (mine("theirs", other.gateway),))
        await eventually(lambda: "theirs" in mirror.jobs)
        other.remove(model, ("theirs", "ours"))
        await eventually(lambda: "theirs" not in mirror.jobs)
        assert "ours" in mirror.jobs


async def test_what_others_promote_is_promised_here_too_if_it_is_still_here(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as (fleet, replica, _), neighbour(redis_url, f"b-{model}", fleet) as other:
        mirror, stream = replica.mirror, Stream()
        assert mirror is not None
        ours = mine("ours", fleet.ledger.gateway, guaranteed=False)
        replica.enter(ours)
        replica.answers["ours"] = stream
        promoted = tuple(
            msgspec.structs.replace(one, guaranteed=True) for one in (ours, mine("ended", fleet.ledger.gateway))
        )
        await told(redis_url, Change(replica=model, gateway=other.gateway, entries=promoted, promote=True))
        await eventually(lambda: stream.promotions)
        assert bool(mirror.jobs["ours"]["guaranteed"])
        assert replica.own["ours"].guaranteed
        assert "ended" not in mirror.jobs


async def test_a_gateway_that_died_has_promised_nothing_any_more(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as (fleet, replica, _):
        mirror = replica.mirror
        assert mirror is not None
        async with neighbour(redis_url, f"b-{model}", fleet) as other:
            await other.add(model, (mine("theirs", other.gateway),))
            await eventually(lambda: "theirs" in mirror.jobs)
            await asyncio.sleep(1.0)
            assert "theirs" in mirror.jobs
        await eventually(lambda: "theirs" not in mirror.jobs)
        assert await ledger_size(redis_url, model) == 0


async def test_a_ledger_that_is_loaded_again_loses_strays_and_gets_back_what_is_ours(
    redis_url: str, model: str
) -> None:
    async with known(redis_url, model) as (fleet, replica, _), connected(redis_url, "b") as other:
        mirror, gateway = replica.mirror, fleet.ledger.gateway
        assert mirror is not None
        replica.enter(mine("ours", gateway))
        await other.add(model, (mine("stray", gateway), mine("theirs", "b")))
        await fleet.reload(replica, restore=True)
        assert set(mirror.entries) >= {"ours"}
        assert "stray" not in mirror.entries
        await fleet.ledger.flush()
        _, entries = await other.load(model)
        assert "ours" in entries
        assert "stray" not in entries


def alone(name: str = "r", *, reports: bool = False) -> Replica:
    return Replica(
        name, "http://x/", "m", Breaker(lambda: 0.0), profile=profiles.load("h200-opt-13b"), supports_plans=reports,
        reports=reports,
    )  # fmt: skip


def test_what_a_server_without_telemetry_does_is_told_from_its_answers() -> None:
    replica = alone()
    mirror = replica.mirror
    assert mirror is not None
    replica.enter(mine("x", "a"))
    replica.enter(mine("waits", "a"))
    replica.answers["x"] = Stream(prompt_tokens=30, tokens=5)
    replica.answers["waits"] = Stream()
    replica.observe()
    job = mirror.jobs["x"]
    assert [int(job[name]) for name in ("prompt_left", "context", "generated")] == [0, 35, 5]
    assert int(mirror.jobs["waits"]["prompt_left"]) == 10
    assert mirror.free_blocks == mirror.profile.kv_blocks - 3
    assert replica.strike("x", 0.0)
    assert not replica.strike("x", 0.0)
    replica.observe()
    assert mirror.free_blocks == mirror.profile.kv_blocks


async def test_replicas_that_fail_or_are_silent_are_asked_only_if_there_is_no_other() -> None:
    clock = Clock()
    upstream = Upstream(connect_timeout_s=1.0)
    fleet = Fleet(Ledger("redis://127.0.0.1:1/0", "a"), upstream, (), clock=clock)
    fleet.replicas = {name: alone(name, reports=True) for name in ("failing", "silent", "good")}
    for _ in range(3):
        fleet.failed(fleet.replicas["failing"])
    silent = fleet.replicas["silent"].mirror
    assert silent is not None
    silent.heard_s = clock() - 2.5
    good = fleet.replicas["good"].mirror
    assert good is not None
    good.heard_s = clock() - 1.0
    assert [r.name for r in fleet.serving("m")] == ["good"]
    assert [r.name for r in fleet.serving("m", frozenset({"good"}))] == ["failing", "silent"]
    assert fleet.serving("other") == []
    assert fleet.breaks == 1
    fleet.replicas["good"].alive = False
    assert [r.name for r in fleet.serving("m")] == ["failing", "silent"]
    await upstream.close()
