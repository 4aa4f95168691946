"""Two gateways on one Redis, offered more than the replicas can hold, promise no more than they can hold."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from engines import profiles
from gateway.ledger import Ledger, LedgerEntry
from planner.controller import Arrival, ReplicaState, place
from planner.jobs import JobTable
from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import MODEL, ScriptedReplica, holds, scripted_replica, stalls
from tests.processes import running_gateway, running_valkey

NAMES = ("r0", "r1", "r2")
PROMPT_TOKENS = 1000
TTFT_MS = 1500
OFFERED = 100


async def test_what_two_gateways_promise_together_can_be_kept(client: aiohttp.ClientSession) -> None:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(running_valkey()).url
        gateways = [stack.enter_context(running_gateway(url, wait=False)) for _ in range(2)]
        replicas = [await stack.enter_async_context(_holding(url, name)) for name in NAMES]
        for gateway in gateways:
            await asyncio.to_thread(gateway.wait_until_up)
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
    ledger = Ledger(url, "auditor")
    try:
        _, entries = await ledger.load(name)
    finally:
        await ledger.close()
    return sorted((e for e in entries.values() if e.guaranteed), key=lambda e: e.dispatched_s)


def _replay(entries: list[LedgerEntry]) -> None:
    """Put the promises through the planner in the order they were made: each must have had room."""
    profile = profiles.load("h200-opt-13b")
    jobs = JobTable()
    for entry in entries:
        state = ReplicaState("audit", profile, jobs, free_blocks=profile.kv_blocks)
        now_s = entry.arrival_s
        arrival = Arrival(
            entry.request_id, entry.deadline_s - now_s, entry.tpot_s, entry.prompt_tokens, entry.output_tokens
        )
        assert place(arrival, [state], now_s).guaranteed, f"promise {len(jobs) + 1} of {len(entries)} had no room"
        jobs.add(
            entry.request_id, deadline_s=entry.deadline_s, tpot_s=entry.tpot_s, prompt_left=entry.prompt_tokens,
            output=entry.output_tokens, guaranteed=True, next_tpot_s=math.inf,
        )  # fmt: skip
