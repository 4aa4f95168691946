"""What lies between a gateway and its replicas: the defaults of `engines.sim.systems.base.Delays`, measured.

python -m slosgate.bench.gateway_bench.delays

A real gateway before a simulated replica on this machine, one request at a time: medians of what a request's way there
and its first token's way back add, of how old a report is when it is heard, and of how long a plan takes to come.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time

import aiohttp
import msgspec
from redis.asyncio import Redis
from rich.console import Console

from slosgate.bench.gateway_bench.processes import free_port, started, wait_until_up
from slosgate.engines.channel import connect, plans_for, telemetry_reports
from slosgate.engines.sim.systems.base import Delays
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
        gateway, engine = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        program = [sys.executable, "-m", "slosgate"]
        where = ["--redis", redis.url, "--port"]
        replica = [*program, "engine", "sim", "--hardware", HARDWARE, "--name", "measured", *where, engine[17:]]
        for url, command in ((engine, replica), (gateway, [*program, "serve", *where, gateway[17:]])):
            process = started(command, ending)
            await asyncio.to_thread(wait_until_up, f"{url}/health", process)
        await asyncio.to_thread(wait_until_up, f"{gateway}/ready", process)
        reports_s: list[float] = []
        plans_s: list[float] = []
        async with connect(redis.url) as store, aiohttp.ClientSession() as client:
            heard = [asyncio.create_task(_reports(store, reports_s)), asyncio.create_task(_plans(store, plans_s))]
            direct_s, through_s = [], []
            for _ in range(REQUESTS):  # in turns, so that both see the same machine
                direct_s.append(await _first_token_s(client, engine))
                through_s.append(await _first_token_s(client, gateway))
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
    async for report in telemetry_reports(store):
        ages_s.append(time.time() - report.sent_at_s)


async def _plans(store: Redis, ages_s: list[float]) -> None:
    async for plan in plans_for(store, "measured"):
        ages_s.append(time.time() - plan.issued_at_s)


if __name__ == "__main__":
    Console().print({name: round(value, 5) for name, value in msgspec.to_builtins(asyncio.run(measured())).items()})
