"""The shared state: commits that must not both win, seen from two gateways on one Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from slosgate.engines.cancelling import ended
from slosgate.engines.channel import key
from slosgate.engines.messages import Plan
from slosgate.gateway.state.ledger import Conflict, Ledger, StoreDown
from slosgate.gateway.state.records import LedgerEntry


def entry(request_id: str, *, guaranteed: bool = True, gateway: str = "a") -> LedgerEntry:
    return LedgerEntry(
        request_id=request_id, gateway=gateway, slo_class="default", arrival_s=1.0, has_slo=True, deadline_s=2.0,
        tpot_s=0.05, weight=1.0, prompt_tokens=10, output_tokens=5, acceptance=0.0, guaranteed=guaranteed,
        dispatched_s=1.0, decided_s=1.0, report_s=1.0,
    )  # fmt: skip


@asynccontextmanager
async def connected(url: str, gateway: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(url, gateway)
    ledger.available = True
    sending = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        await ended([sending])
        await ledger.close()


async def test_of_two_guarantees_on_one_version_the_second_is_told_of_the_first(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        known, _ = await a.load(model)
        first = await a.commit(model, known, entry("first"))
        second = await b.commit(model, known, entry("second", gateway="b"))
        assert (first.missed, second.missed) == ((), (entry("first"),))
        assert second.version == first.version + 1
        assert await b.load(model) == (
            second.version,
            {"first": entry("first"), "second": entry("second", gateway="b")},
        )


async def test_a_guarantee_is_told_only_of_what_came_since_its_decision(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        known = (await a.commit(model, 0, entry("old"))).version
        for name in ("new", "newer", "gone"):
            await a.commit(model, known, entry(name))
        a.remove(model, ("gone",))
        await a.flush()
        late = await b.commit(model, known, entry("late", gateway="b"))
        assert [e.request_id for e in late.missed] == ["new", "newer"]
        assert (await b.commit(model, late.version, entry("next", gateway="b"))).missed == ()


async def test_of_guarantees_that_leave_together_each_has_a_number_of_its_own(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a:
        first = (await a.commit(model, 0, entry("r"))).version
        ours = [entry(f"r{n}") for n in range(50)]
        found = await asyncio.gather(*(a.commit(model, first, one) for one in ours))
        assert [committed.version for committed in found] == list(range(first + 1, first + 51))
        # Each is told of those before it, for one of them may be a request that another gateway has promoted.
        assert [len(committed.missed) for committed in found] == list(range(50))
        assert all(told is one for told, one in zip(found[-1].missed, ours, strict=False))  # ours need not be read


async def test_a_redis_that_has_lost_everything_counts_on_and_tells_all_it_has(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        before = await a.commit(model, 0, entry("lost"))
        await a.redis.delete(*(key(kind, model) for kind in ("version", "log", "ledger")))
        await a.commit(model, before.version, entry("x"))
        after = await b.commit(model, before.version, entry("y", gateway="b"))
        assert after.version > before.version + 2
        assert after.missed == (entry("x"),)


async def test_best_effort_is_entered_without_a_version_and_struck_off(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a:
        await a.add(model, (entry("x", guaranteed=False),))
        version, entries = await a.load(model)
        assert (version, list(entries)) == (0, ["x"])
        a.remove(model, ("x",))
        await a.flush()
        assert (await a.load(model))[1] == {}


async def test_a_request_that_ended_can_not_be_promoted(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a:
        version = (await a.commit(model, 0, entry("there"))).version
        promoted = await a.promote(model, version, (entry("gone"), entry("there")))
        assert await a.load(model) == (promoted, {"there": entry("there")})


async def test_a_guarantee_is_told_of_a_request_of_its_own_gateway_that_another_promoted(
    redis_url: str, model: str
) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        known = (await a.commit(model, 0, entry("old"))).version
        await a.add(model, (entry("x", guaranteed=False),))
        await b.promote(model, known, (entry("x"),))
        assert [e.request_id for e in (await a.commit(model, known, entry("y"))).missed] == ["x"]


async def test_a_promotion_on_an_old_version_is_a_conflict(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        await a.add(model, (entry("x", guaranteed=False),))
        known = (await a.commit(model, 0, entry("y"))).version
        await b.commit(model, known, entry("z", gateway="b"))
        with pytest.raises(Conflict):
            await a.promote(model, known, (entry("x"),))


async def test_the_newest_epoch_of_a_plan_stays(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        assert await a.publish_plan(Plan(replica=model, epoch=7, issued_at_s=1.0)) == 7
        assert await b.publish_plan(Plan(replica=model, epoch=2, issued_at_s=2.0)) == 7
        assert await b.publish_plan(Plan(replica=model, epoch=8, issued_at_s=2.0)) == 8


async def test_changes_reach_the_other_gateways(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        changes = b.changes(frozenset({"a"}))
        assert await anext(changes) is None
        await a.add(model, (entry("x", guaranteed=False),))
        news = await anext(changes)
        assert news is not None
        version, change = news
        assert version == 0
        assert (change.replica, change.gateway, change.entries[0].request_id) == (model, "a", "x")
        await changes.aclose()


async def test_without_a_server_everything_fails_at_once() -> None:
    async with connected("redis://127.0.0.1:1/0", "a") as ledger:
        with pytest.raises(StoreDown):
            await ledger.commit("r", 0, entry("x"))
        assert not ledger.available
        with pytest.raises(StoreDown):
            await ledger.load("r")
