"""A replica's end of the channel, against a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from slosgate.engines import channel, profiles
from slosgate.engines.door import Door
from slosgate.engines.messages import Announcement, Plan, Telemetry
from slosgate.engines.store import connect
from tests.engines.conftest import Valkey
from tests.engines.serving import send_plan

INFO = channel.ReplicaInfo(
    name="r[0]", url="http://127.0.0.1:1", model="m", profile=profiles.load("h200-opt-13b"), engine="sim",
    policy="slosgate", started_at_s=1.0, supports_plans=True, instance="a",
)  # fmt: skip


def report() -> Telemetry:
    return Telemetry(replica=INFO.name, sent_at_s=2.0, epoch=0, busy_for_s=0.0, kv_blocks_total=9, kv_blocks_free=9)


@pytest_asyncio.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    async with connect(valkey.url) as redis:
        yield redis


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 what is awaited has no event
            await asyncio.sleep(0.01)


async def live(redis: Redis) -> list[channel.ReplicaInfo]:
    return list((await channel.registered(redis, Door())).infos)


async def registered(redis: Redis) -> list[channel.ReplicaInfo]:
    async with asyncio.timeout(20):
        while not (found := await live(redis)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def test_a_replica_registers_reports_takes_plans_and_leaves(valkey: Valkey, redis: Redis) -> None:
    plans: list[Plan] = []
    await send_plan(redis, Plan(replica=INFO.name, epoch=1, issued_at_s=5.0))
    end = channel.ReplicaChannel(valkey.url, INFO, snapshot=report, on_plan=plans.append)
    task = asyncio.create_task(end.run())
    assert await registered(redis) == [INFO]
    await until(lambda: len(plans) == 1)
    await send_plan(redis, Plan(replica=INFO.name, epoch=2, issued_at_s=6.0))
    await until(lambda: plans[-1].epoch == 2)
    async for told in channel.telemetry_reports(redis, Door()):
        assert told == report()
        break
    task.cancel()
    await asyncio.wait([task])
    assert await live(redis) == []


async def test_a_replica_leaves_even_when_it_has_just_got_something_to_say(valkey: Valkey, redis: Redis) -> None:
    end = channel.ReplicaChannel(valkey.url, INFO, snapshot=report, on_plan=print)
    task = asyncio.create_task(end.run())
    await until(lambda: end.connected)
    await asyncio.sleep(0.1)  # the first report has left
    end.report(urgent=True)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert await live(redis) == []


async def test_a_replica_registers_again_when_redis_comes_back(valkey: Valkey) -> None:
    plans: list[Plan] = []
    end = channel.ReplicaChannel(valkey.url, INFO, snapshot=report, on_plan=plans.append)
    task = asyncio.create_task(end.run())
    await until(lambda: end.connected)
    valkey.stop()
    await until(lambda: not end.connected)
    valkey.start()
    async with connect(valkey.url) as redis:
        assert await registered(redis) == [INFO]
        await until(lambda: end.connected)
        await send_plan(redis, Plan(replica=INFO.name, epoch=7, issued_at_s=5.0))
        await until(lambda: {plan.epoch for plan in plans} == {7})
    task.cancel()
    await asyncio.wait([task])


async def test_a_message_that_cannot_be_read_is_passed_over(valkey: Valkey, redis: Redis) -> None:
    plans: list[Plan] = []
    end = channel.ReplicaChannel(valkey.url, INFO, snapshot=report, on_plan=plans.append)
    task = asyncio.create_task(end.run())
    await registered(redis)
    async with asyncio.timeout(20):
        while not plans:
            await redis.publish(channel.key("plan", INFO.name), b"\xc1 not a plan")
            await send_plan(redis, Plan(replica=INFO.name, epoch=3, issued_at_s=5.0))
            await asyncio.sleep(0.01)
    assert end.connected
    task.cancel()
    await asyncio.wait([task])


async def test_a_replica_hears_who_is_on_the_way_to_it(valkey: Valkey, redis: Redis) -> None:
    heard: list[Announcement] = []
    end = channel.ReplicaChannel(valkey.url, INFO, snapshot=report, on_plan=lambda plan: None, on_arrival=heard.append)
    task = asyncio.create_task(end.run())
    await registered(redis)
    async with asyncio.timeout(20):
        while not heard:
            await redis.publish(channel.key("arrivals", INFO.name), b"\xc1 nobody")
            await redis.publish(channel.key("arrivals", INFO.name), msgspec.msgpack.encode(Announcement("x", 10, 0.5)))
            await asyncio.sleep(0.01)
    assert heard[0] == Announcement("x", 10, 0.5)
    assert end.connected
    task.cancel()
    await asyncio.wait([task])


async def test_of_two_replicas_of_one_name_each_is_seen_and_told(
    valkey: Valkey, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = []
    for n in (1, 2):
        info = msgspec.structs.replace(INFO, name="same", url=f"http://127.0.0.1:{n}", instance=str(n) * 32)
        end = channel.ReplicaChannel(valkey.url, info, snapshot=report, on_plan=lambda plan: None)
        tasks.append(asyncio.create_task(end.run()))
        async with asyncio.timeout(20):
            while len(await live(redis)) < n:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert {info.name: info.url for info in await live(redis)} == {
        "same": "http://127.0.0.1:1", "same~222222": "http://127.0.0.1:2",
    }  # fmt: skip
    await until(lambda: len([r for r in caplog.records if "two replicas claim the name 'same'" in r.getMessage()]) == 2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_plan_that_cannot_be_read_does_not_keep_a_replica_away(valkey: Valkey, redis: Redis) -> None:
    await redis.set(channel.key("plan", INFO.name), b"\xc1 of another version")
    plans: list[Plan] = []
    end = channel.ReplicaChannel(valkey.url, INFO, snapshot=report, on_plan=plans.append)
    task = asyncio.create_task(end.run())
    await registered(redis)
    async with asyncio.timeout(20):
        while not plans:
            await send_plan(redis, Plan(replica=INFO.name, epoch=3, issued_at_s=5.0))
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


async def test_records_of_other_versions_cost_themselves_alone(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    door = Door()
    newer = msgspec.to_builtins(INFO) | {"to_come": 1}
    newer["profile"] |= {"to_come": [1]}
    absurd = msgspec.to_builtins(INFO) | {"name": "absurd"}
    absurd["profile"] = absurd["profile"] | {"max_drafts": 10**9}
    for name, record in ((INFO.name, newer), ("absurd", absurd), ("garbage", "x"), ("liar", newer)):
        await redis.set(channel.key("replica", name), msgspec.msgpack.encode(record))
    await redis.hset(channel.key("replica", "hash"), "a", "b")
    for _ in range(2):
        found = await channel.registered(redis, door)
        assert found.infos == (INFO,)
    assert found.names == {INFO.name, "absurd", "garbage", "liar", "hash"}
    told = [record.getMessage().partition(" is ignored")[0] for record in caplog.records]
    assert sorted(told) == [f"slosgate:replica:{name}" for name in ("absurd", "garbage", "liar")]  # once each
