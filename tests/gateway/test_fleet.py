"""A gateway's view of its replicas, against a real Valkey: who lives, and what the other gateways promised there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from slosgate.engines import profiles
from slosgate.engines.cancelling import ended
from slosgate.engines.channel import ReplicaInfo
from slosgate.gateway.config import Config
from slosgate.gateway.replicas.books import Books
from slosgate.gateway.replicas.breaker import Breaker
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.replicas.upkeep import Upkeep
from slosgate.gateway.replicas.upstream import Upstream
from slosgate.gateway.state.ledger import Ledger
from slosgate.gateway.state.records import LedgerEntry
from tests.gateway.conftest import eventually, ledger_size
from tests.gateway.scripted import ScriptedReplica, good, scripted_replica
from tests.gateway.test_ledger import connected, entry

PROFILE = profiles.load("h200-opt-13b")


@dataclass
class Stream:
    """An answer under way."""

    prompt_tokens: int = 10
    tokens: int = 0
    cuts: list[str] = field(default_factory=list)
    promotions: int = 0
    model: str = "model"
    movable: bool = False
    begun: bool = False

    def cut(self, reason: str) -> None:
        self.cuts.append(reason)

    def promote(self) -> None:
        self.promotions += 1

    def generating(self, now_s: float) -> None:
        pass

    def note_cached(self, cached_tokens: int) -> None:
        """Nothing that these tests look at."""


@dataclass(frozen=True)
class Known:
    """A gateway's fleet, and one replica in it."""

    fleet: Fleet
    ledger: Ledger
    books: Books
    server: ScriptedReplica

    @property
    def replica(self) -> Replica:
        return self.fleet.replicas[self.server.name]

    @property
    def mirror(self) -> Mirror:
        assert self.replica.mirror is not None
        return self.replica.mirror


@asynccontextmanager
async def known(redis_url: str, name: str) -> AsyncIterator[Known]:
    ledger, upstream, fleet = Ledger(redis_url, f"gateway-of-{name}"), Upstream(connect_timeout_s=1.0), Fleet()
    upkeep = Upkeep(fleet, ledger, upstream, Config(), clock=time.time)
    task = asyncio.create_task(upkeep.run())
    try:
        async with scripted_replica(redis_url, name, good(), model=name) as server:
            await eventually(lambda: name in fleet.replicas and ledger.available)
            yield Known(fleet, ledger, upkeep.books, server)
    finally:
        await ended([task])
        await upstream.close()
        await ledger.close()


@pytest.mark.parametrize(("hangs", "cuts"), [(False, []), (True, ["lost"])], ids=["it drains", "it is gone"])
async def test_answers_of_a_replica_without_heartbeat_are_cut_only_if_it_is_gone(
    redis_url: str, model: str, hangs: bool, cuts: list[str]
) -> None:
    async with known(redis_url, model) as here:
        replica = here.replica
        stream = replica.answers["x"] = Stream()
        here.server.hangs = hangs
        await here.server.stop_beating()
        await eventually(lambda: not replica.alive)
        assert list(here.fleet.living()) == []
        await asyncio.sleep(0.5)
        await eventually(lambda: stream.cuts == cuts, 10)


async def test_a_replica_that_began_anew_has_lost_its_answers(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as here:
        stream = here.replica.answers["x"] = Stream()
        await here.server.stop_beating()
        async with scripted_replica(redis_url, model, good(), model=model) as again:
            await eventually(lambda: here.replica.url == again.url)
            assert stream.cuts == ["lost"]
            assert here.replica.answers == {}


async def test_just_after_redis_came_back_nobody_is_given_up(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as here:
        await here.server.stop_beating()
        await asyncio.sleep(2.5)
        assert here.replica.alive


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
        await ended([beating])


def of(request_id: str, gateway: str, **changed: object) -> LedgerEntry:
    """An entry of a request that is on its way for long."""
    made = msgspec.structs.replace(entry(request_id, gateway=gateway), dispatched_s=time.time() + 3600)
    return msgspec.structs.replace(made, **changed)


async def test_what_others_remove_is_gone_here_unless_we_answer_for_it(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as here, neighbour(redis_url, f"b-{model}", here.fleet) as other:
        here.replica.enter(of("ours", here.ledger.gateway))
        await other.add(model, (of("theirs", other.gateway),))
        await eventually(lambda: "theirs" in here.mirror.jobs)
        other.remove(model, ("theirs", "ours"))
        await eventually(lambda: "theirs" not in here.mirror.jobs)
        assert "ours" in here.mirror.jobs


async def test_what_others_promise_and_promote_is_promised_here_too(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as here, neighbour(redis_url, f"b-{model}", here.fleet) as other:
        stream, ours = Stream(), of("ours", here.ledger.gateway, guaranteed=False)
        here.replica.enter(ours)
        here.replica.answers["ours"] = stream
        await here.ledger.add(model, (ours,))
        committed = await other.commit(model, 0, of("theirs", other.gateway))
        await eventually(lambda: here.mirror.version == committed.version)
        assert bool(here.mirror.jobs["theirs"]["guaranteed"])
        promoted = tuple(
            msgspec.structs.replace(one, guaranteed=True) for one in (ours, of("ended", here.ledger.gateway))
        )
        version = await other.promote(model, committed.version, promoted)
        await eventually(lambda: stream.promotions)
        assert here.replica.own["ours"].guaranteed
        assert bool(here.mirror.jobs["ours"]["guaranteed"])
        assert "ended" not in here.mirror.jobs
        await eventually(lambda: here.mirror.version == version, 10)


async def test_a_gateway_that_died_has_promised_nothing_any_more(redis_url: str, model: str) -> None:
    async with known(redis_url, model) as here:
        async with neighbour(redis_url, f"b-{model}", here.fleet) as other:
            await other.add(model, (of("theirs", other.gateway),))
            await eventually(lambda: "theirs" in here.mirror.jobs)
            await asyncio.sleep(2.0)
            assert "theirs" in here.mirror.jobs
        await eventually(lambda: "theirs" not in here.mirror.jobs, 20)
        await here.ledger.flush()
        assert await ledger_size(redis_url, model) == 0


async def test_a_ledger_that_is_loaded_again_loses_strays_and_gets_back_what_is_ours(
    redis_url: str, model: str
) -> None:
    async with known(redis_url, model) as here, connected(redis_url, "b") as other:
        gateway = here.ledger.gateway
        here.replica.enter(of("ours", gateway))
        await other.add(model, (of("stray", gateway), of("theirs", "b")))
        await here.books.reload(here.replica, restore=True)
        assert "ours" in here.mirror.entries
        assert "stray" not in here.mirror.entries
        await here.ledger.flush()
        _, entries = await other.load(model)
        assert "ours" in entries
        assert "stray" not in entries


def alone(name: str = "r", info: ReplicaInfo | None = None) -> Replica:
    return Replica(name, "http://x/", "m", Breaker(lambda: 0.0), profile=PROFILE, info=info)


def registered(name: str) -> Replica:
    """One that reports and takes plans."""
    info = ReplicaInfo(
        name=name, url="http://x", model="m", profile=PROFILE, engine="sim", policy="slosgate", started_at_s=1.0,
        supports_plans=True,
    )  # fmt: skip
    return alone(name, info)


def test_what_a_server_without_telemetry_does_is_told_from_its_answers() -> None:
    replica = alone()
    mirror = replica.mirror
    assert mirror is not None
    replica.enter(of("x", "a"))
    replica.enter(of("waits", "a"))
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


def test_replicas_that_fail_or_are_silent_are_asked_only_if_there_is_no_other() -> None:
    fleet = Fleet(clock=lambda: 100.0)
    fleet.replicas = {name: registered(name) for name in ("failing", "silent", "good")}
    for _ in range(3):
        fleet.failed(fleet.replicas["failing"])
    for name, heard_s in (("silent", 97.5), ("good", 99.0)):
        mirror = fleet.replicas[name].mirror
        assert mirror is not None
        mirror.heard_s = heard_s
    assert [r.name for r in fleet.serving("m")] == ["good"]
    assert [r.name for r in fleet.serving("m", frozenset({"good"}))] == ["failing", "silent"]
    assert fleet.serving("other") == []
    assert fleet.breaks == 1
    fleet.replicas["good"].alive = False
    assert [r.name for r in fleet.serving("m")] == ["failing", "silent"]
