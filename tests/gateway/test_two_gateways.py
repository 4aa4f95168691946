"""Two gateways on one Redis, offered more than the replicas can hold, promise no more than they can hold.

SLOSGATE_OVERLOAD_SECONDS=600 keeps the overload up for ten minutes.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import aiohttp
import msgspec
import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from slosgate.engines import profiles
from slosgate.engines.channel import key
from slosgate.engines.messages import Telemetry
from slosgate.engines.sim.realtime import faster
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.state.ledger import Ledger
from slosgate.gateway.state.records import Change, LedgerEntry
from slosgate.planner.controller import Arrival, ReplicaState, place
from slosgate.planner.jobs import JobTable
from slosgate.planner.profile import HardwareProfile
from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import MODEL, ScriptedReplica, holds, scripted_replica, stalls
from tests.processes import Process, running_engine, running_gateway, running_valkey

NAMES = ("r0", "r1", "r2")
PROMPT_TOKENS = 1000
TTFT_MS = 1500
OFFERED = 100

SLOW = "slow-model"
SLOW_NAMES = ("s0", "s1", "s2")
SPEED = 0.5  # of an H200, so that a test machine can offer 1.5 times what three of them hold
SLOW_PROMPT, SLOW_OUTPUT = 1500, 40
OVERLOAD = 1.5
SECONDS = float(os.environ.get("SLOSGATE_OVERLOAD_SECONDS", "4"))
REFUSING = "[classes.strict]\nttft_ms = 1500\ntpot_ms = 100\nwhen_full = 'reject'\n"


@dataclass
class Cluster:
    url: str
    gateways: list[Process]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two gateways, and three simulated replicas of a model of their own."""
    with ExitStack() as stack:
        url = stack.enter_context(running_valkey()).url
        gateways = [stack.enter_context(running_gateway(url, REFUSING, wait=False)) for _ in range(2)]
        options = ("--model", SLOW, "--speed", str(SPEED))
        engines = [stack.enter_context(running_engine(url, name, *options, wait=False)) for name in SLOW_NAMES]
        for process in (*gateways, *engines):
            process.wait_until_up()
        yield Cluster(url, gateways)


async def test_what_two_gateways_promise_together_can_be_kept(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    async with AsyncExitStack() as stack:
        url, gateways = cluster.url, cluster.gateways
        replicas = [await stack.enter_async_context(_holding(url, name)) for name in NAMES]
        for gateway in gateways:
            for replica in replicas:
                await until_known(client, gateway.url, replica.name)
        asked = [asyncio.create_task(_ask(client, gateways[n % 2].url, n)) for n in range(OFFERED)]
        await eventually(lambda: sum(len(replica.calls) for replica in replicas) == OFFERED)
        promised = {name: await _promised(url, name) for name in NAMES}
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    by_gateway = Counter(entry.gateway for entries in promised.values() for entry in entries)
    assert len(by_gateway) == 2  # both took part
    assert sum(by_gateway.values()) < OFFERED  # and it was too much for them
    for entries in promised.values():
        _replay(entries)


@asynccontextmanager
async def _holding(url: str, name: str) -> AsyncIterator[ScriptedReplica]:
    async with scripted_replica(url, name, stalls) as replica:
        replica.script = holds(replica.progress)
        yield replica


async def _ask(client: aiohttp.ClientSession, url: str, number: int) -> None:
    body = {"model": MODEL, "prompt": [number] * PROMPT_TOKENS, "max_tokens": 50, "ignore_eos": True}
    slo = {"x-slo-ttft-ms": str(TTFT_MS), "x-slo-tpot-ms": "100"}
    async with client.post(f"{url}/v1/completions", json=body, headers=slo) as answer:
        await answer.read()


async def _promised(url: str, name: str) -> list[LedgerEntry]:
    """The guarantees of one replica, in the order in which Redis took them."""
    ledger = Ledger(url, "auditor")
    try:
        _, entries = await ledger.load(name)
        logged: list[bytes] = await ledger.redis.zrange(key("log", name), 0, -1)  # type: ignore[assignment]
    finally:
        await ledger.close()
    guaranteed = {i: entry for i, entry in entries.items() if entry.guaranteed}
    return [guaranteed[i.decode()] for i in logged if i.decode() in guaranteed]


def _replay(entries: list[LedgerEntry]) -> None:
    """Put the promises through the planner in the order they were made: each must have had room when it was decided."""
    profile = profiles.load("h200-opt-13b")
    jobs = JobTable()
    for entry in entries:
        state = ReplicaState("audit", profile, jobs, free_blocks=profile.kv_blocks)
        now_s = entry.decided_s
        arrival = Arrival(
            entry.request_id, entry.deadline_s - now_s, entry.tpot_s, entry.prompt_tokens, entry.output_tokens
        )
        assert place(arrival, [state], now_s).guaranteed, f"promise {len(jobs) + 1} of {len(entries)} had no room"
        jobs.add(
            entry.request_id, deadline_s=entry.deadline_s, tpot_s=entry.tpot_s, prompt_left=entry.prompt_tokens,
            output=entry.output_tokens, guaranteed=True, next_tpot_s=math.inf,
        )  # fmt: skip


async def test_a_lasting_overload_is_never_promised(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    """Every promise, in the order in which Redis took them, put through the planner on what was known at the time."""
    for gateway in cluster.gateways:
        for name in SLOW_NAMES:
            await until_known(client, gateway.url, name)
    rate_rps = OVERLOAD * len(SLOW_NAMES) / _slow_profile().zero_load_ttft_s(SLOW_PROMPT)
    async with _auditing(cluster.url) as audit:
        asked = []
        for _ in range(int(rate_rps * SECONDS / 2)):
            # Both at the same moment, so that each decides before it hears of the other.
            asked += [asyncio.create_task(_status(client, gateway.url)) for gateway in cluster.gateways]
            await asyncio.sleep(2 / rate_rps)
        answers = await asyncio.gather(*asked)
        await eventually(lambda: audit.open == 0)
    assert {status for status, _ in answers} == {200, 429}
    kept = {request_id for status, request_id in answers if status == 200}
    assert kept <= audit.promised  # the others of these were withdrawn before their clients heard of them
    assert kept & audit.unfounded.keys() == set()
    assert len(audit.gateways) == 2
    await eventually(lambda: _is_promised(client, cluster))  # and none that came late blocks those that come after


async def _status(client: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    """The answer's status and the request's id."""
    # None finds its prompt in a cache.
    body = {
        "model": SLOW, "prompt": [1] * SLOW_PROMPT, "cache_salt": uuid4().hex, "max_tokens": SLOW_OUTPUT,
        "ignore_eos": True,
    }  # fmt: skip
    async with client.post(f"{url}/v1/completions", json=body, headers={"x-slo-class": "strict"}) as answer:
        await answer.read()
        return answer.status, answer.headers["x-request-id"]


async def _is_promised(client: aiohttp.ClientSession, cluster: Cluster) -> bool:
    return (await _status(client, cluster.gateways[0].url))[0] == 200


def _slow_profile() -> HardwareProfile:
    return faster(profiles.load("h200-opt-13b"), SPEED)


class Audit:
    """Follows ledgers and reports in Redis's order, and asks of each promise whether the planner had room for it.

    A gateway decides on the reports that it has taken so far, and each entry says which was the newest. So there are
    mirrors of each replica for each gateway, which take reports when an entry shows that the gateway had them.
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, LedgerEntry]] = {name: {} for name in SLOW_NAMES}
        self._reports: dict[str, list[Telemetry]] = {name: [] for name in SLOW_NAMES}
        self._known: dict[tuple[str, str], _Known] = {}
        self.promised: set[str] = set()
        self.unfounded: dict[str, LedgerEntry] = {}  # latest promises to requests for which there was no room

    @property
    def gateways(self) -> set[str]:
        return {gateway for _, gateway in self._known}

    @property
    def open(self) -> int:
        return sum(len(entries) for entries in self._entries.values())

    def report(self, report: Telemetry) -> None:
        if report.replica in self._reports:
            self._reports[report.replica].append(report)

    def change(self, change: Change) -> None:
        if change.replica not in self._entries:
            return
        for entry in change.entries:
            self._entered(change.replica, entry)
        for request_id in change.removed:
            self._entries[change.replica].pop(request_id, None)
            for gateway, known in self._of(change.replica):
                known.removed(request_id, own=gateway == change.gateway)

    def _of(self, replica: str) -> list[tuple[str, _Known]]:
        return [(gateway, known) for (name, gateway), known in self._known.items() if name == replica]

    def _entered(self, replica: str, entry: LedgerEntry) -> None:
        if (replica, entry.gateway) not in self._known:
            self._known[replica, entry.gateway] = _Known(self._entries[replica].values())
        known = self._known[replica, entry.gateway]
        known.take(self._reports[replica], entry.report_s)
        if entry.guaranteed:
            self.promised.add(entry.request_id)
            self.unfounded.pop(entry.request_id, None)  # one that was withdrawn is followed by another attempt
            if not any(_has_room(mirror, entry) for mirror in (known.tardy, known.prompt)):
                self.unfounded[entry.request_id] = entry
        self._entries[replica][entry.request_id] = entry
        for _, other in self._of(replica):
            other.tardy.add(entry)
            other.prompt.add(entry)


class _Known:
    """What one gateway knows of one replica. Of another gateway's removals it knows, when it decides, at least those
    that came before the newest report it has taken, and at most all: `tardy` and `prompt`."""

    def __init__(self, entries: Iterable[LedgerEntry]) -> None:
        self.tardy, self.prompt = Mirror(_slow_profile()), Mirror(_slow_profile())
        self._taken = 0
        self._removed: deque[tuple[float, str]] = deque()
        for entry in entries:
            self.tardy.add(entry)
            self.prompt.add(entry)

    def removed(self, request_id: str, *, own: bool) -> None:
        now_s = time.time()
        self.prompt.drop(request_id, now_s)
        if own:
            self.tardy.drop(request_id, now_s)
        else:
            self._removed.append((now_s, request_id))

    def take(self, reports: list[Telemetry], until_s: float) -> None:
        while self._taken < len(reports) and reports[self._taken].sent_at_s <= until_s:
            report = reports[self._taken]
            self.tardy.take(report, report.sent_at_s)
            self.prompt.take(report, report.sent_at_s)
            self._taken += 1
        while self._removed and self._removed[0][0] <= until_s:
            at_s, request_id = self._removed.popleft()
            self.tardy.drop(request_id, at_s)


def _has_room(mirror: Mirror, entry: LedgerEntry) -> bool:
    now_s = entry.decided_s
    state = ReplicaState("audit", mirror.profile, mirror.jobs, mirror.free_blocks, mirror.busy_for_s(now_s))
    ttft_s = entry.deadline_s - now_s
    arrival = Arrival(
        entry.request_id, ttft_s, entry.tpot_s, entry.prompt_tokens, entry.output_tokens, acceptance=entry.acceptance
    )
    return place(arrival, [state], now_s).guaranteed


@asynccontextmanager
async def _auditing(url: str) -> AsyncIterator[Audit]:
    """An audit of all that happens during the block, read on one connection so that the order is Redis's own."""
    audit, redis = Audit(), Redis.from_url(url)
    async with redis, redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.psubscribe(key("telemetry", "*"), key("changes", "*"))
        reading = asyncio.create_task(_read(pubsub, audit))
        yield audit
        reading.cancel()


async def _read(pubsub: PubSub, audit: Audit) -> None:
    async for message in pubsub.listen():
        if message["channel"].startswith(key("telemetry", "").encode()):
            audit.report(msgspec.msgpack.decode(message["data"], type=Telemetry))
        else:
            audit.change(msgspec.msgpack.decode(message["data"].partition(b" ")[2], type=Change))
