"""The courier: a small process between vLLM's engine and Redis, so that the engine itself never talks to Redis.

It takes the engine's reports from a socket and sends them on, puts the newest plan and the latest announcements into
the engine's two mailboxes, and keeps the replica registered while the engine lives and its HTTP server answers. It ends
when the engine's end of the socket closes. When Redis is away the engine notices nothing but the lack of news.

    python -m slosgate.engines.vllm.courier SOCKET_FD PLANS_FD ARRIVALS_FD
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

import httpx
import msgspec

from slosgate.engines.channel import ReplicaChannel, ReplicaInfo
from slosgate.engines.drafts import DraftTally
from slosgate.engines.messages import Announcement, IterationReport, Plan, Telemetry
from slosgate.engines.vllm import leaving
from slosgate.engines.vllm.mailbox import Mailbox
from slosgate.engines.vllm.settings import MEASURING

logger = logging.getLogger("slosgate.vllm")

FRAME_BYTES = 1 << 20
HEALTH_POLL_S = 0.5
ANSWER_POLL_S = 0.25
ANSWERS = 16  # so many of the latest probes tell how long the HTTP server takes to answer
IDLE_ANSWER_S = 0.003  # what an answer takes on an idle server: a profile's own overhead has that in it
HEALTH_TIMEOUT_S = 2.0
KEPT_ITERATIONS = 2048  # reports of iterations that wait for Redis; older ones are dropped
HEARD_S = 0.05  # what was announced longer ago has arrived, or is not waited for
MOST_HEARD = 1024
URGENT, ROUTINE = b"\x01", b"\x00"


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's first message: what replica it is and where its plans come from."""

    redis_url: str
    info: ReplicaInfo


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """An announcement, and when it came (the engine's clock)."""

    announcement: Announcement
    at_s: float


class Courier:
    """Serves one engine: `run` returns when the engine is gone. In the `shared` folder the launcher may leave a mark
    that the engine is to go."""

    def __init__(self, engine: socket.socket, plans: Mailbox, arrivals: Mailbox, shared: Path | None = None) -> None:
        self._engine = engine
        self._plans = plans
        self._arrivals = arrivals
        self._shared = shared
        self._draining = False
        self._heard: deque[Heard] = deque(maxlen=MOST_HEARD)
        self._latest: Telemetry | None = None
        self._latest_came_s = 0.0  # monotonic clock
        self._iterations: deque[IterationReport] = deque(maxlen=KEPT_ITERATIONS)
        self._drafts = DraftTally()
        self._answers_s: deque[float] = deque(maxlen=ANSWERS)

    async def run(self) -> None:
        hello = msgspec.msgpack.decode(await self._frame(), type=Hello)
        self._keep(_idle(hello.info))
        channel = ReplicaChannel(
            hello.redis_url, hello.info, snapshot=self._snapshot, on_plan=lambda plan: self._deliver(channel, plan),
            on_arrival=self._announce,
        )  # fmt: skip
        serving = asyncio.create_task(self._serve(channel, hello.info.url))
        try:
            while frame := await self._frame():
                self._take(channel, frame)
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    async def _frame(self) -> bytes:
        """The engine's next message; empty when the engine is gone."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._engine, FRAME_BYTES)
        except ConnectionError:
            return b""

    async def _serve(self, channel: ReplicaChannel, url: str) -> None:
        """Register once the replica's HTTP server answers, then stay connected."""
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT_S, trust_env=False) as client:
            while not await _healthy(client, url):  # noqa: ASYNC110  # another process, no event to wait for
                await asyncio.sleep(HEALTH_POLL_S)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._probe(client, url))
                tasks.create_task(self._watch_for_leaving(channel))
                tasks.create_task(channel.run())

    async def _watch_for_leaving(self, channel: ReplicaChannel) -> None:
        while not self._draining:
            self._draining = leaving.has_begun(self._shared)
            await asyncio.sleep(leaving.POLL_S)
        channel.report(urgent=True)

    async def _probe(self, client: httpx.AsyncClient, url: str) -> None:
        """Note how long the HTTP server takes to answer at all: so long a token waits there on its way out, too."""
        while True:
            started_s = time.monotonic()
            await _healthy(client, url)
            self._answers_s.append(time.monotonic() - started_s)
            await asyncio.sleep(ANSWER_POLL_S)

    @property
    def _answer_s(self) -> float:
        """Three of four answers took no longer, beyond what they take on an idle server."""
        latest_s = sorted(self._answers_s)
        return max(0.0, latest_s[3 * len(latest_s) // 4] - IDLE_ANSWER_S) if latest_s else 0.0

    def _take(self, channel: ReplicaChannel, frame: bytes) -> None:
        try:
            report = msgspec.msgpack.decode(memoryview(frame)[1:], type=Telemetry)
        except msgspec.MsgspecError as error:  # the replica must not be gone for that
            logger.warning("a report of the engine's that cannot be read is dropped: %s", error)
            return
        self._keep(report)
        self._iterations.extend(report.iterations)
        for drafts in report.drafts:
            self._drafts.add(drafts)
        channel.report(urgent=frame[:1] == URGENT)

    def _keep(self, report: Telemetry) -> None:
        self._latest, self._latest_came_s = report, time.monotonic()

    def _engine_time_s(self) -> float:
        """What the engine's clock says now, told from its latest report: our wall clock may have been set since."""
        assert self._latest is not None  # set before the channel starts
        return self._latest.sent_at_s + time.monotonic() - self._latest_came_s

    def _snapshot(self) -> Telemetry:
        assert self._latest is not None  # set before the channel starts
        now_s = self._engine_time_s()
        report = msgspec.structs.replace(
            self._latest,
            sent_at_s=now_s,
            busy_for_s=max(0.0, self._latest.busy_for_s - (now_s - self._latest.sent_at_s)),
            iterations=tuple(self._iterations),
            drafts=self._drafts.reports(),
            answer_s=self._answer_s,
            draining=self._draining,
        )
        self._iterations.clear()
        self._drafts.clear()
        return report

    def _deliver(self, channel: ReplicaChannel, plan: Plan) -> None:
        assert self._latest is not None  # set before the channel starts
        self._plans.write(msgspec.msgpack.encode(plan))
        if not self._latest.progress:
            # An idle engine looks into its mailbox when the next request comes, which is soon enough for the plan.
            self._latest = msgspec.structs.replace(self._latest, epoch=plan.epoch)
            channel.report()

    def _announce(self, announcement: Announcement) -> None:
        now_s = self._engine_time_s()
        self._heard.append(Heard(announcement, now_s))
        while self._heard[0].at_s < now_s - HEARD_S:
            self._heard.popleft()
        self._arrivals.write(msgspec.msgpack.encode(tuple(self._heard)))


def _idle(info: ReplicaInfo) -> Telemetry:
    """What a replica reports before its first iteration."""
    blocks = info.profile.kv_blocks
    return Telemetry(
        replica=info.name, sent_at_s=info.started_at_s, epoch=0, busy_for_s=0.0,
        kv_blocks_total=blocks, kv_blocks_free=blocks,
    )  # fmt: skip


async def _healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health")).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    # The engine decides when the courier ends, also when a terminal sends Ctrl-C to everyone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = socket.socket(fileno=int(sys.argv[1]))
    engine.setblocking(False)
    folder = os.environ.get(MEASURING)
    plans, arrivals = Mailbox(int(sys.argv[2])), Mailbox(int(sys.argv[3]))
    asyncio.run(Courier(engine, plans, arrivals, Path(folder) if folder else None).run())


if __name__ == "__main__":
    main()
