"""The shared state: commits that must not both win, seen from two gateways on one Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from slosgate.engines.messages import Plan
from slosgate.gateway.state.ledger import Conflict, Head, Ledger, LedgerEntry, StoreDown


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
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await ledger.close()


async def test_of_two_commits_on_one_version_one_wins(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        base, _ = await a.load(model)
        head = Head(base.version + 1, a.next_commit())
        await a.commit(model, base, head, (entry("first"),))
        with pytest.raises(Conflict):
            await b.commit(model, base, Head(base.version + 1, b.next_commit()), (entry("second", gateway="b"),))
        assert await b.load(model) == (head, {"first": entry("first")})


async def test_a_commit_on_a_commit_that_failed_fails_too(redis_url: str, model: str) -> None:
    """Two of ours are under way; another gateway's comes between: the version the second expects is there, but not
    the decision that it was built on."""
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        base, _ = await a.load(model)
        ours = [Head(base.version + n, a.next_commit()) for n in (1, 2)]
        await b.commit(model, base, Head(base.version + 1, b.next_commit()), (entry("theirs", gateway="b"),))
        with pytest.raises(Conflict):
            await a.commit(model, base, ours[0], (entry("one"),))
        with pytest.raises(Conflict):
            await a.commit(model, ours[0], ours[1], (entry("two"),))
        assert list((await a.load(model))[1]) == ["theirs"]


async def test_commits_that_build_on_each_other_travel_together(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a:
        heads = [Head(0, "")] + [Head(n, a.next_commit()) for n in range(1, 51)]
        await asyncio.gather(
            *(a.commit(model, heads[n], heads[n + 1], (entry(f"r{n}"),)) for n in range(50)),
        )
        head, entries = await a.load(model)
        assert head == heads[-1]
        assert len(entries) == 50


async def test_best_effort_is_entered_without_a_version_and_struck_off(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a:
        await a.add(model, (entry("x", guaranteed=False),))
        head, entries = await a.load(model)
        assert (head.version, list(entries)) == (0, ["x"])
        a.remove(model, ("x",))
        await a.flush()
        assert (await a.load(model))[1] == {}


async def test_a_request_that_ended_can_not_be_promoted(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a:
        base, _ = await a.load(model)
        await a.commit(model, base, Head(1, a.next_commit()), (entry("gone"),), promote=True)
        assert (await a.load(model))[1] == {}


async def test_the_newest_epoch_of_a_plan_stays(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        assert await a.publish_plan(Plan(replica=model, epoch=2, issued_at_s=1.0))
        assert not await b.publish_plan(Plan(replica=model, epoch=2, issued_at_s=2.0))
        assert await b.publish_plan(Plan(replica=model, epoch=3, issued_at_s=2.0))


async def test_changes_reach_the_other_gateways(redis_url: str, model: str) -> None:
    async with connected(redis_url, "a") as a, connected(redis_url, "b") as b:
        changes = b.changes(frozenset({"a"}))
        assert await anext(changes) is None
        await a.add(model, (entry("x", guaranteed=False),))
        change = await anext(changes)
        assert change is not None
        assert (change.replica, change.gateway, change.entries[0].request_id) == (model, "a", "x")
        await changes.aclose()


async def test_without_a_server_everything_fails_at_once() -> None:
    async with connected("redis://127.0.0.1:1/0", "a") as ledger:
        with pytest.raises(StoreDown):
            await ledger.commit("r", Head(0, ""), Head(1, "x"), (entry("x"),))
        assert not ledger.available
        with pytest.raises(StoreDown):
            await ledger.load("r")
