"""A real engine server in a process of its own, for the tests that talk HTTP to one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
from redis.asyncio import Redis

from slosgate.engines import channel
from slosgate.engines.door import Door
from slosgate.engines.messages import DraftReport, IterationReport, Plan, Telemetry
from tests.engines.conftest import free_port

START_S = 110.0  # a fresh machine compiles the kernels first
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class EngineServer:
    """What a contract test may know of an engine: where it is, and how large a prompt is long for it."""

    name: str
    url: str
    redis: str
    long_prompt: int  # tokens; computed in chunks of `chunk` it takes long enough to change its mind
    chunk: int
    output: int  # output tokens that take a while


@contextmanager
def sim_engine(name: str, redis: str | None, *options: str, log: Path) -> Iterator[str]:
    """`slosgate engine sim`, ready to serve; its base address."""
    port = free_port()
    command = [sys.executable, "-m", "slosgate", "engine", "sim"]
    command += ["--port", str(port), "--name", name, *options, *(["--redis", redis] if redis else [])]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            if not asyncio.run(_ready(url, process)):
                raise RuntimeError(f"the engine did not start: {log.read_text()}")
            yield url
        finally:
            process.terminate()


async def _ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return True
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    return False


async def send_plan(redis: Redis, plan: Plan) -> None:
    """Store a plan as its replica's newest and tell the replica, as a gateway does."""
    at, packed = channel.key("plan", plan.replica), msgspec.msgpack.encode(plan)
    await redis.set(at, packed, px=channel.PLAN_TTL_MS)
    await redis.publish(at, packed)


class Watcher:
    """Follows one engine's telemetry and sends it plans."""

    def __init__(self, redis: Redis, name: str) -> None:
        self.latest: Telemetry | None = None
        self.iterations: list[IterationReport] = []
        self.drafts: list[DraftReport] = []
        self._redis = redis
        self._name = name
        self._epoch = 0

    async def watch(self) -> None:
        async for report in channel.telemetry_reports(self._redis, Door()):
            if report.replica == self._name:
                self.iterations.extend(report.iterations)
                self.drafts.extend(report.drafts)
                self.latest = report

    async def plan(self, plan: Plan) -> None:
        """Send a plan, numbered after the last one, and wait until the engine follows it."""
        known = self.latest.epoch if self.latest else 0
        self._epoch = max(self._epoch, known) + 1
        plan = msgspec.structs.replace(plan, replica=self._name, epoch=self._epoch, issued_at_s=time.time())
        await send_plan(self._redis, plan)
        await self.until(lambda report: report.epoch == self._epoch)

    async def until(self, condition: Callable[[Telemetry], bool]) -> Telemetry:
        """The first report from now on for which the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while self.latest is None or not condition(self.latest):  # noqa: ASYNC110 what is awaited has no event
                await asyncio.sleep(0.005)
        return self.latest


@dataclass(frozen=True, slots=True)
class Answer:
    """A streamed completion. vLLM may put several tokens into one event when its client is slower than the engine."""

    times: list[float]  # when each event with tokens came
    tokens: int


async def complete(engine: EngineServer, prompt_tokens: int, output: int, **slo: object) -> Answer:
    """Stream a completion."""
    body = {"prompt": [7] * prompt_tokens, "max_tokens": output, "ignore_eos": True, "vllm_xargs": slo}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    times, tokens = [], 0
    async with aiohttp.ClientSession() as session, session.post(f"{engine.url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = msgspec.json.decode(line.removeprefix(b"data: "))
                times += [time.monotonic()] if event["choices"] else []
                tokens = (event.get("usage") or {"completion_tokens": tokens})["completion_tokens"]
    return Answer(times, tokens)
