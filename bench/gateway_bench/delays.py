"""What lies between a gateway and its replicas: the defaults of `engines.sim.systems.base.Delays`, measured.

python -m slosgate.bench.gateway_bench.delays

A real gateway before a simulated replica on this machine, one request at a time: medians of what a request's way there
and its first token's way back add, of how old a report is when it is heard, and of how long a plan takes to come.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time

import aiohttp
import msgspec
from redis.asyncio import Redis
from rich.console import Console

from slosgate.bench import processes
from slosgate.engines.channel import plans_for, telemetry_reports
from slosgate.engines.door import Door
from slosgate.engines.sim.systems.base import Delays
from slosgate.engines.store import connect
from slosgate.gateway.state import valkey

HARDWARE = "h200-opt-13b"
REQUESTS = 60
BODY = {"model": "facebook/opt-13b", "prompt": [1], "max_tokens": 12, "ignore_eos": True, "stream": True}
SLO = {"x-slo-ttft-ms": "2000", "x-slo-tpot-ms": "100"}


async def measured() -> Delays:
    """Start a gateway and a replica, and measure."""
    with contextlib.ExitStack() as ending:
        redis = valkey.start()
        ending.callback(redis.stop)
        options = ["--hardware", HARDWARE, "--name", "measured", "--redis", redis.url]
        engine = ending.enter_context(processes.simulated_engine(*options))
        gateway = ending.enter_context(processes.gateway(redis.url))
        await asyncio.to_thread(engine.wait_until_up)
        await asyncio.to_thread(gateway.wait_until_up, "/ready", ("measured",))
        reports_s: list[float] = []
        plans_s: list[float] = []
        async with connect(redis.url) as store, aiohttp.ClientSession() as client:
            heard = [asyncio.create_task(_reports(store, reports_s)), asyncio.create_task(_plans(store, plans_s))]
            direct_s, through_s = [], []
            for _ in range(REQUESTS):  # in turns, so that both see the same machine
                direct_s.append(await _first_token_s(client, engine.url))
                through_s.append(await _first_token_s(client, gateway.url))
            for task in heard:
                task.cancel()
            await asyncio.gather(*heard, return_exceptions=True)
    http_s = statistics.median(through_s) - statistics.median(direct_s)
    return Delays(http_s, statistics.median(reports_s), statistics.median(plans_s))


async def _first_token_s(client: aiohttp.ClientSession, url: str) -> float:
    began_s = time.monotonic()
    async with client.post(f"{url}/v1/completions", json=BODY, headers=SLO) as answer:
        await answer.content.readany()
        first_s = time.monotonic() - began_s
        await answer.read()
    return first_s


async def _reports(store: Redis, ages_s: list[float]) -> None:
    async for report in telemetry_reports(store, Door()):
        ages_s.append(time.time() - report.sent_at_s)


async def _plans(store: Redis, ages_s: list[float]) -> None:
    async for plan in plans_for(store, "measured", Door()):
        ages_s.append(time.time() - plan.issued_at_s)


if __name__ == "__main__":
    Console().print({name: round(value, 5) for name, value in msgspec.to_builtins(asyncio.run(measured())).items()})
