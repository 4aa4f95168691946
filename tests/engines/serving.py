"""A real engine server in a process of its own, for the tests that talk HTTP to one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aiohttp
import msgspec
from redis.asyncio import Redis

from slosgate.bench.processes import simulated_engine
from slosgate.engines import channel
from slosgate.engines.door import Door
from slosgate.engines.messages import DraftReport, IterationReport, Plan, Telemetry

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
    where = ["--redis", redis] if redis else []
    with simulated_engine("--name", name, *options, *where, log=log) as process:
        process.wait_until_up()
        yield process.url


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

    @asynccontextmanager
    async def planning(self, plan: Plan) -> AsyncIterator[None]:
        """Send a plan now and again every half second, as gateways do: an engine that hears none plans for itself."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(0.5)
                await self.plan(plan)

        await self.plan(plan)
        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[Telemetry], bool]) -> Telemetry:
        """The first report from now on for which the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while self.latest is None or not condition(self.latest):  # noqa: ASYNC110 what is awaited has no event
                await asyncio.sleep(0.005)
        return self.latest


@dataclass(frozen=True, slots=True)
class Completion:
    """A streamed completion. vLLM may put several tokens into one event when its client is slower than the engine."""

    times: list[float]  # when each event with tokens came
    tokens: int


async def complete(engine: EngineServer, prompt_tokens: int, output: int, **slo: object) -> Completion:
    """Stream a completion."""
    salt = uuid4().hex  # nothing of it is cached
    body = {
        "prompt": [7] * prompt_tokens, "max_tokens": output, "ignore_eos": True, "cache_salt": salt, "vllm_xargs": slo,
    }  # fmt: skip
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    times, tokens = [], 0
    async with aiohttp.ClientSession() as session, session.post(f"{engine.url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = msgspec.json.decode(line.removeprefix(b"data: "))
                times += [time.monotonic()] if event["choices"] else []
                tokens = (event.get("usage") or {"completion_tokens": tokens})["completion_tokens"]
    return Completion(times, tokens)
