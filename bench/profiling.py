"""Measuring a live replica: requests of chosen sizes go to it over HTTP, what its iterations took comes from Redis.

A *burst* is so many equal requests at once and, when all of them decode, further prompts one after another. The program
of bursts covers lone prompts of all lengths, decode batches of all sizes and contexts, and prompts beside decodes, and
is repeated until time is up. Requests carry no SLO, so the replica's scheduler runs whatever is there.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec
import numpy as np
from redis.exceptions import RedisError

from slosgate.bench.errors import RunError
from slosgate.engines.channel import ReplicaInfo, registered, telemetry_reports
from slosgate.engines.door import Door
from slosgate.engines.messages import IterationReport, Telemetry
from slosgate.engines.store import connect
from slosgate.planner.profile import HardwareProfile

ROUNDS = 3
SETTLE_S = 2.0  # how long the telemetry of a burst that has ended is waited for
STEPS = 40  # output tokens of a decode burst
LONG = 2048  # tokens: a longer prompt may take much of the time there is
LONGEST_S = 6.0  # that the prompts of a burst may take
SHARE = 0.8  # of the KV memory and of a prompt's limit that a burst may use
TOKEN_IDS = (1000, 20_000)  # ordinary tokens of every vocabulary in use


@dataclass(frozen=True, slots=True)
class Burst:
    prompt_tokens: int
    output_tokens: int = 1
    count: int = 1
    then: tuple[int, ...] = ()  # prompts that follow, one by one, while these decode

    @property
    def computed_tokens(self) -> int:
        """What the replica computes for it: an answer's last token is never an input."""
        return self.count * (self.prompt_tokens + self.output_tokens - 1) + sum(self.then)


@dataclass(slots=True)
class Measured:
    """What a replica was seen to do."""

    info: ReplicaInfo
    iterations: list[IterationReport] = field(default_factory=list)
    overheads_s: list[float] = field(default_factory=list)  # of lone prompts: TTFT less what the iterations took

    def lines(self) -> bytes:
        """The iterations as `slosbench profile fit` reads them."""
        return b"".join(msgspec.json.encode(_line(iteration)) + b"\n" for iteration in self.iterations)

    @property
    def overhead_s(self) -> float:
        return round(max(0.0, float(np.median(self.overheads_s))), 5) if self.overheads_s else 0.0


def program(profile: HardwareProfile) -> list[Burst]:
    """The bursts of one round, small ones first; leaves out those that do not fit into the replica's memory."""
    window = range(int(SHARE * profile.max_model_tokens) + 1)
    longest = bisect.bisect_right(window, LONGEST_S, key=profile.zero_load_ttft_s) - 1
    lone = [Burst(min(16 * 2**n, longest)) for n in range(7) for _ in range(2)] + [Burst(longest), Burst(longest)]
    lone += [Burst(2**n) for n in range(11, 17) if 2**n < longest]
    pairs = [Burst(min(length, longest), count=count) for length, count in ((64, 8), (256, 4), (700, 3), (1400, 2))]
    sizes = [2**n for n in range(10)]
    decodes = [Burst(length, STEPS, n) for length in (32, 300, longest // 2) for n in sizes]
    beside = (40, 150, 400, 800, longest)
    mixed = [Burst(200, 3 * STEPS, n, tuple(min(p, longest) for p in beside)) for n in (4, 32, 100)]
    return [burst for burst in (*lone, *pairs, *decodes, *mixed) if _fits(burst, profile) and _quick(burst, profile)]


async def measure(url: str, redis_url: str, seconds: float, seed: int) -> Measured:
    """Run the program against the replica at this address. Raises RunError when it is not there or sends nothing."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=60.0)
    try:
        door = Door()
        async with (
            connect(redis_url) as redis,
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        ):
            measured = Measured(_named((await registered(redis, door)).infos, url))
            async with _listening(telemetry_reports(redis, door), measured) as latest:
                client = _Client(session, url, measured, np.random.default_rng(seed), latest)
                await client.play(seconds)
    except (RedisError, OSError, aiohttp.ClientError, TimeoutError) as error:
        raise RunError(f"lost the replica at {url} or Redis at {redis_url}: {error!r}") from None
    if not measured.iterations:
        raise RunError(f"{measured.info.name} served its requests and reported no iterations to Redis at {redis_url}")
    return measured


def _named(replicas: Sequence[ReplicaInfo], url: str) -> ReplicaInfo:
    for info in replicas:
        if info.url.rstrip("/") == url.rstrip("/"):
            return info
    known = ", ".join(info.url for info in replicas) or "no replica"
    raise RunError(f"--url {url!r} is not registered in this Redis, which lists {known}")


@dataclass(slots=True)
class _Latest:
    report: Telemetry | None = None


@contextlib.asynccontextmanager
async def _listening(reports: AsyncIterator[Telemetry], measured: Measured) -> AsyncIterator[_Latest]:
    latest = _Latest()

    async def listen() -> None:
        async for report in reports:
            if report.replica == measured.info.name:
                measured.iterations.extend(report.iterations)
                latest.report = report

    listening = asyncio.create_task(listen())
    try:
        yield latest
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


class _Client:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        measured: Measured,
        rng: np.random.Generator,
        latest: _Latest,
    ) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/v1/completions"
        self._measured = measured
        self._rng = rng
        self._latest = latest

    async def play(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        await self._until(lambda: self._latest.report is not None)
        await self._burst(Burst(64, 2))  # connections, first times of everything
        self._measured.iterations.clear()
        for burst in itertools.chain.from_iterable([program(self._measured.info.profile)] * ROUNDS):
            if time.monotonic() > end_s:
                return
            seen = len(self._measured.iterations)
            ttft_s = await self._burst(burst)
            if burst.count == burst.output_tokens == 1:
                busy_s = sum(iteration.duration_s for iteration in self._measured.iterations[seen:])
                self._measured.overheads_s.append(ttft_s - busy_s)

    async def _burst(self, burst: Burst) -> float:
        """Send it and wait until all that it did is known; the TTFT of the first request."""
        seen = len(self._measured.iterations)
        first = [asyncio.get_running_loop().create_future() for _ in range(burst.count)]
        tasks = [
            asyncio.create_task(self._complete(burst.prompt_tokens, burst.output_tokens, begun)) for begun in first
        ]
        if burst.then:
            await asyncio.wait(first)
            for prompt in burst.then:
                await self._complete(prompt, 1, asyncio.get_running_loop().create_future())
        await asyncio.gather(*tasks)
        with contextlib.suppress(TimeoutError):  # a report was dropped: the rest is as good without it
            await self._until(
                lambda: sum(i.new_tokens for i in self._measured.iterations[seen:]) >= burst.computed_tokens
            )
        return float(first[0].result())

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SETTLE_S):
            while not condition():  # noqa: ASYNC110  # what the listener fills has no event
                await asyncio.sleep(0.002)

    async def _complete(self, prompt_tokens: int, output_tokens: int, begun: asyncio.Future[float]) -> None:
        """Stream one completion; `begun` gets its TTFT."""
        body = {
            "model": self._measured.info.model, "prompt": self._rng.integers(*TOKEN_IDS, prompt_tokens).tolist(),
            "max_tokens": output_tokens, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        sent_s = time.perf_counter()
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                raise RunError(f"{self._url} answered {response.status}: {(await response.text())[:200]}")
            async for _ in response.content.iter_any():
                if not begun.done():
                    begun.set_result(time.perf_counter() - sent_s)


def _fits(burst: Burst, profile: HardwareProfile) -> bool:
    tokens = burst.count * (burst.prompt_tokens + burst.output_tokens) + max(burst.then, default=0)
    return burst.count <= profile.max_sequences and tokens <= SHARE * profile.kv_blocks * profile.block_tokens


def _quick(burst: Burst, profile: HardwareProfile) -> bool:
    """Whether its prompts leave time for others, where they are long ones."""
    return burst.prompt_tokens <= LONG or burst.count * profile.zero_load_ttft_s(burst.prompt_tokens) <= LONGEST_S


def _line(iteration: IterationReport) -> dict[str, float]:
    return {
        "new_tokens": iteration.new_tokens,
        "sequences": iteration.sequences,
        "context_tokens": iteration.context_tokens,
        "draft_steps": iteration.draft_steps,
        "pairs": iteration.pairs,
        "ms": round(iteration.duration_s * 1e3, 3),
    }
