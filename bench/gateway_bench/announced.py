"""When a replica hears of a request: the gateway's announcement, through the plug-in's courier, against the request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from slosgate.bench import processes
from slosgate.bench.gateway_bench.backend import MODEL, Connection, Ticker
from slosgate.bench.gateway_bench.client import Client
from slosgate.engines import profiles
from slosgate.engines.channel import ReplicaInfo
from slosgate.engines.messages import Telemetry
from slosgate.engines.vllm.link import Link
from slosgate.gateway.state import valkey

NAME = "bench"
REPORT_S = 0.02
HEARD_S = 0.2  # after which an announcement counts as lost


class _Noting(Connection):
    """The mock backend, which notes when each request's first bytes came (wall clock)."""

    def __init__(self, ticker: Ticker, came: dict[str, float]) -> None:
        super().__init__(ticker)
        self._came = came
        self._now_s = 0.0

    def data_received(self, data: bytes) -> None:
        self._now_s = time.time()
        super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._came[value.decode()] = self._now_s


async def lead_ms(data: Callable[[int], bytes], *, rate_rps: float, seconds: float) -> tuple[list[float], int]:
    """(milliseconds from each request's first byte at the engine until its announcement is heard, negative when that
    is sooner, in ascending order; requests that failed or were never announced).

    `data` makes the request for a gateway's port.
    """
    came: dict[str, float] = {}
    heard: dict[str, float] = {}
    with contextlib.ExitStack() as ending:
        redis = valkey.start()
        ending.callback(redis.stop)
        ticker = Ticker(REPORT_S)
        port, engine_port = processes.free_port(), processes.free_port()
        loop = asyncio.get_running_loop()
        async with await loop.create_server(lambda: _Noting(ticker, came), "127.0.0.1", engine_port):
            link = Link(redis.url, _replica(engine_port))
            ending.callback(link.close)
            reporting = asyncio.create_task(_report(link, heard))
            gateway = ending.enter_context(processes.gateway(redis.url, port=port))
            await asyncio.to_thread(gateway.wait_until_up, "/ready")
            client = Client("127.0.0.1", port)
            await client.closed_loop(data(port), concurrency=4, seconds=1.0)
            came.clear()
            load = await client.open_loop(data(port), rate_rps=rate_rps, seconds=seconds)
            await asyncio.sleep(HEARD_S)
            client.close()
            reporting.cancel()
    found = sorted(1000 * (heard[name] - at_s) for name, at_s in came.items() if name in heard)
    return found, load.failed + len(came) - len(found)


def _replica(port: int) -> ReplicaInfo:
    return ReplicaInfo(
        name=NAME, url=f"http://127.0.0.1:{port}", model=MODEL, profile=profiles.load("h200-opt-13b"), engine="vllm",
        policy="slosgate", started_at_s=time.time(), supports_plans=True,
    )  # fmt: skip


async def _report(link: Link, heard: dict[str, float]) -> None:
    """Report and read the mailboxes, as the plug-in does."""
    while True:
        now_s = time.time()
        report = Telemetry(
            replica=NAME, sent_at_s=now_s, epoch=0, busy_for_s=0.0, kv_blocks_total=10_000, kv_blocks_free=10_000
        )
        link.send(report, urgent=False)
        link.plan()
        heard.update({each.announcement.request_id: each.at_s for each in link.arrivals()})
        await asyncio.sleep(REPORT_S)
