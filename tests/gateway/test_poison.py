"""What another process wrote may be anything. It costs that one item, and no request fails that another could serve.

SLOSGATE_CORRUPTIONS=2000 spoils two thousand items instead of sixty.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from slosgate.engines.cancelling import ended
from tests.gateway.conftest import eventually, until_known
from tests.gateway.poison import Poisoner
from tests.gateway.scripted import MODEL
from tests.processes import Process, running_engine, running_gateway, running_valkey

NAMES = ("first", "second")
CORRUPTIONS = int(os.environ.get("SLOSGATE_CORRUPTIONS", "60"))
SEED = int(os.environ.get("SLOSGATE_SEED", "1"))
# A machine that is busy with something else must not look like a Redis that is away.
CONFIG = "[redis]\ntimeout_s = 20"
SLO = {"x-slo-ttft-ms": "5000", "x-slo-tpot-ms": "500"}
GROWTH_KB = 60_000  # of a gateway's memory over the whole run, however long: models compiled, buffers and all


@dataclass
class Cluster:
    url: str
    gateways: list[Process]
    engines: list[Process]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        url = stack.enter_context(running_valkey()).url
        gateways = [stack.enter_context(running_gateway(url, CONFIG, wait=False)) for _ in range(2)]
        engines = [stack.enter_context(running_engine(url, name, wait=False)) for name in NAMES]
        for process in (*gateways, *engines):
            process.wait_until_up()
        yield Cluster(url, gateways, engines)


@pytest.mark.timeout(120 + CORRUPTIONS)
async def test_whatever_is_spoilt_requests_are_served(client: aiohttp.ClientSession, cluster: Cluster) -> None:
    for gateway in cluster.gateways:
        for name in NAMES:
            await until_known(client, gateway.url, name)
    await _ask(client, cluster.gateways[0].url)
    before = [memory_kb(gateway) for gateway in cluster.gateways]
    ends: Counter[str] = Counter()
    async with Redis.from_url(cluster.url) as redis:
        poisoner = Poisoner(redis, NAMES, SEED)
        listening, stop = asyncio.create_task(poisoner.listen()), asyncio.Event()
        asking = [asyncio.create_task(_keep_asking(client, g.url, ends, stop)) for g in cluster.gateways]
        while poisoner.count < CORRUPTIONS:
            await poisoner.spoil()
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*asking)
        await ended([listening])
    assert set(ends) == {"done"}
    assert "Traceback" not in "".join(process.log.read_text() for process in (*cluster.gateways, *cluster.engines))
    for gateway, kb in zip(cluster.gateways, before, strict=True):
        assert memory_kb(gateway) - kb < GROWTH_KB
        for name in NAMES:
            await until_known(client, gateway.url, name)
        await eventually(partial(_is_guaranteed, client, gateway.url))
    await eventually(partial(_plans_go_on, client, cluster, await _planned(client, cluster)))


async def _keep_asking(client: aiohttp.ClientSession, url: str, ends: Counter[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        ends[await _ask(client, url)] += 1
        await asyncio.sleep(0.02)


async def _ask(client: aiohttp.ClientSession, url: str) -> str:
    body = {"model": MODEL, "prompt": [1] * 50, "max_tokens": 8, "ignore_eos": True, "stream": True}
    async with client.post(f"{url}/v1/completions", json=body, headers=SLO) as answer:
        text = await answer.text()
    return "done" if answer.status == 200 and text.endswith("data: [DONE]\n\n") else f"{answer.status}: {text[-300:]}"


async def _is_guaranteed(client: aiohttp.ClientSession, url: str) -> bool:
    body = {"model": MODEL, "prompt": [1] * 50, "max_tokens": 2}
    async with client.post(f"{url}/v1/completions", json=body, headers=SLO) as answer:
        return answer.headers.get("x-slo-admission") == "guaranteed"


async def _planned(client: aiohttp.ClientSession, cluster: Cluster) -> float:
    """Plans that the gateways have published."""
    found = 0.0
    for gateway in cluster.gateways:
        async with client.get(f"{gateway.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        found += sum(float(line.split()[-1]) for line in lines if line.startswith("slosgate_plans_published_total"))
    return found


async def _plans_go_on(client: aiohttp.ClientSession, cluster: Cluster, planned: float) -> bool:
    await _ask(client, cluster.gateways[0].url)
    return await _planned(client, cluster) > planned


def memory_kb(process: Process) -> int:
    lines = Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
