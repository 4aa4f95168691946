"""A replica measures itself before it registers: requests of chosen sizes through its own port, and a fit.

Lone prompts of all lengths and decode batches of all sizes, then decodes and prompts behind a prefix as long as window
and time allow (it is computed once where prefixes are cached), then the first of them again. As many as there is time
for: however slow the device is, requests are sent for MEASURE_S and the fit may take FIT_S. The scheduler notes what
its iterations took in a file; what is fitted to them is left in another, and kept for the next start. When anything
fails, the replica serves with what it was derived from, and says so.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.engines.vllm import kept
from slosgate.planner.fit import (
    COLUMNS,
    MalformedMeasurement,
    Measurements,
    assumed,
    fit,
    parse,
    predict,
    timing_faults,
)
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.recalibration import recalibrated

TASK, ITERATIONS, RESULT = "task.json", "iterations.jsonl", "profile.json"  # in the folder of a measurement
POLL_S = 0.2
MEASURE_S = 16.0  # requests are sent for so long at most; those that run then are given up
FIT_S = 8.0  # a fit that takes longer is given up for a scaled model; it takes a second or two on an idle core
SETTLE_S = 1.0
STEPS = 24  # output tokens of a decode burst
SHARE = 0.8  # of the window and of the KV memory that a burst may use
LONGEST_PROMPT_S = 1.0  # of those that are sent in each round
DEEPEST_PROMPT_S = 5.0  # of the one that is sent once
MOST_DECODES = 256
FEW, ENOUGH = 10, 80  # iterations to scale a derived model by, and to fit one of its own to
BEHIND = (16, 256, 1024, 2048)  # tokens of the prompts that follow on the longest one
EACH = 6  # iterations of a kind that a fit takes: a burst of decodes has as many as it has tokens, a prompt has one
FIRST_TOKEN_ID, LAST_TOKEN_ID = 1000, 20_000  # ordinary tokens of every large vocabulary


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine wants measured: its profile so far, and the key to keep the result under."""

    profile: HardwareProfile
    key: str
    vocabulary: int


class Noted(msgspec.Struct, frozen=True):
    """What one iteration computed and took, as the scheduler noted it: 0 ms where nobody saw its end."""

    new_tokens: int
    ms: float


class MeasurementFailed(RuntimeError):
    """The measurement came to nothing; the message says why."""


FAILURES = (MeasurementFailed, MalformedMeasurement, aiohttp.ClientError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Burst:
    """So many equal requests at once."""

    prompt_tokens: int
    output_tokens: int = 1
    count: int = 1
    behind_tokens: int = 0  # of a prefix: the same for all of that length

    @property
    def computed_tokens(self) -> int:
        """What the engine computes for it, where it has the prefix: an answer's last token is never an input."""
        return self.count * (self.prompt_tokens + self.output_tokens - 1)


async def at_start(folder: Path, url: str, headers: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Wait until the engine serves; if it asks for a measurement, make it and hand over the result."""
    timeout = aiohttp.ClientTimeout(total=MEASURE_S + SETTLE_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        while not await _healthy(session, url):  # noqa: ASYNC110  # another process, no event to wait for
            await asyncio.sleep(POLL_S)
        if not (folder / TASK).exists():
            return
        task = msgspec.json.decode((folder / TASK).read_bytes(), type=Task)
        started_s = time.monotonic()
        client = _Client(session, url, task, folder / ITERATIONS)
        try:
            found = await measured(client, task)
            say(f"slosgate: measured in {time.monotonic() - started_s:.0f} s: {found.source}")
            _keep(task.key, found, say)
        except* (*FAILURES, msgspec.DecodeError, OSError) as errors:
            why = _first(errors)
            say(f"slosgate: the replica could not measure itself and plans with a derived profile: {why!r}")
            found = task.profile
        kept.leave(found, folder / RESULT)
        try:
            await client.send(Burst(1))  # an idle engine looks for the result with its next iteration
        except* FAILURES as errors:
            say(f"slosgate: the replica registers once it has served a request, and refused ours: {_first(errors)!r}")


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _keep(key: str, profile: HardwareProfile, say: Callable[[str], None]) -> None:
    try:
        say(f"slosgate: kept for the next start in {kept.keep(key, profile)}")
    except OSError as error:
        say(f"slosgate: the next start will measure again, the cache folder can't be written: {error}")


async def _healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def program(profile: HardwareProfile) -> list[Burst]:
    """One round, small bursts first; what the replica can't hold, or takes too long for, is left out."""
    longest = int(SHARE * min(profile.max_model_tokens, profile.kv_blocks * profile.block_tokens)) - 1
    while longest > 64 and profile.zero_load_ttft_s(longest) > LONGEST_PROMPT_S:
        longest //= 2
    lone = [Burst(2**n) for n in range(4, 18) if 2**n < longest] + [Burst(longest)]
    sizes = [2**n for n in range(9) if 2**n <= min(profile.max_sequences, MOST_DECODES)]
    decodes = [Burst(min(prompt, longest), STEPS, n) for n in sizes for prompt in (32, 256)]
    long_ones = [Burst(longest // 2, STEPS, n) for n in (1, 4)]
    fitting = [burst for burst in (*lone, *decodes, *long_ones) if _fits(burst, profile)]
    return sorted(fitting, key=lambda burst: burst.computed_tokens)


def deep(profile: HardwareProfile) -> list[Burst]:
    """Bursts behind the longest prefix that there is room and time for; the first of them has it computed."""
    room = int(SHARE * min(profile.max_model_tokens, profile.kv_blocks * profile.block_tokens)) - BEHIND[-1] - STEPS
    depth = bisect.bisect_right(range(room), DEEPEST_PROMPT_S, key=profile.zero_load_ttft_s) - 1
    if depth <= BEHIND[-1]:
        return []
    decodes = [Burst(BEHIND[0], STEPS, n, depth) for n in (1, 2)]
    bursts = [*decodes, *(Burst(tokens, behind_tokens=depth) for tokens in BEHIND)]
    return [burst for burst in bursts if _fits(burst, profile)]


def _fits(burst: Burst, profile: HardwareProfile) -> bool:
    tokens = burst.behind_tokens + burst.prompt_tokens + burst.output_tokens
    in_memory = burst.count * tokens <= SHARE * profile.kv_blocks * profile.block_tokens
    return in_memory and tokens <= profile.max_model_tokens


async def measured(client: _Client, task: Task) -> HardwareProfile:
    """The task's profile with what was measured. Raises MeasurementFailed, and what the client raises."""
    await client.play(program(task.profile), deep(task.profile))
    seen = [line for line in client.lines() if not assumed(line) and msgspec.json.decode(line, type=Noted).ms > 0]
    if len(seen) < FEW:
        raise MeasurementFailed(f"{len(seen)} iterations were seen from begin to end in time, {FEW} are needed")
    rows = np.array([parse(number, line) for number, line in enumerate(seen, start=1)])
    data = Measurements(rows[:, :COLUMNS], rows[:, COLUMNS])
    try:
        model = await asyncio.wait_for(asyncio.to_thread(fitted, data, task.profile.perf), FIT_S)
    except TimeoutError:
        model = scaled(data, task.profile.perf)
    off = float(np.median(np.abs(predict(model, data) / data.seconds - 1)))
    source = f"measured by the replica itself: {len(rows)} iterations, predicted within {off:.1%} (median)"
    return msgspec.structs.replace(
        task.profile, perf=model, request_overhead_s=client.overhead_s, source=f"{source}; {task.profile.device}"
    )


def fitted(data: Measurements, derived: PerfModel) -> PerfModel:
    """The model fitted to what was measured; the derived one, scaled, where that is too little for a fit."""
    if len(data.seconds) >= ENOUGH:
        model = fit(data.subset(~timing_faults(data, derived) & _evened_out(data)), terms=3, starts=3, towards=derived)
        if any(term.constant_s > 0 for term in model.terms):
            return model
    return scaled(data, derived)


def scaled(data: Measurements, derived: PerfModel) -> PerfModel:
    """The derived model, as much slower or faster as the median iteration was."""
    gain = float(np.median(data.seconds / predict(derived, data)))
    return PerfModel(tuple(recalibrated(term, gain, 0.0) for term in derived.terms))


def _evened_out(data: Measurements) -> NDArray[np.bool_]:
    """Some iterations of every size and depth, spread over the time in which they ran: decodes would outvote prompts
    else, and short contexts long ones."""
    taken = np.zeros(len(data.seconds), np.bool_)
    kind = np.column_stack([data.features[:, 0], np.log2(data.features[:, 1]).astype(np.int64) // 2])
    kinds, kind_of = np.unique(kind, axis=0, return_inverse=True)
    for number in range(len(kinds)):
        those = np.flatnonzero(kind_of.ravel() == number)
        taken[those[np.linspace(0, len(those) - 1, min(EACH, len(those))).astype(np.int64)]] = True
    return taken


@dataclass(slots=True)
class _Client:
    session: aiohttp.ClientSession
    url: str
    task: Task
    iterations: Path
    _overheads_s: list[float] = field(default_factory=list)  # of lone prompts: time beyond that of their iterations
    _skipped: int = 0  # iterations of the warm-up
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def overhead_s(self) -> float:
        if not self._overheads_s:
            return self.task.profile.request_overhead_s
        return round(max(0.0, float(np.median(self._overheads_s))), 5)

    def lines(self) -> list[str]:
        """What iterations took since the warm-up; without the one that is being written."""
        written, _, _ = self.iterations.read_text().rpartition("\n")
        return written.splitlines()[self._skipped :]

    async def play(self, bursts: list[Burst], deep_ones: list[Burst]) -> None:
        """Send all of them, those of the first list twice, or as many as there is time for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEASURE_S):
                await self.send(Burst(64, 4))  # connections, first times of everything
                await self.send(max(bursts, key=lambda burst: burst.prompt_tokens))
                self._skipped = len(self.lines())
                for burst in (*bursts, *deep_ones, *bursts):
                    await self._play(burst)

    async def _play(self, burst: Burst) -> None:
        seen = len(self.lines())
        took_s = await self.send(burst)
        busy_s = await self._busy_s(seen, burst.computed_tokens)
        if burst.count == burst.output_tokens == 1 and not burst.behind_tokens:
            self._overheads_s.append(took_s - busy_s)

    async def send(self, burst: Burst) -> float:
        """How long it took until all were answered."""
        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(burst.count):
                tasks.create_task(self._complete(burst))
        return time.perf_counter() - started_s

    async def _busy_s(self, seen: int, tokens: int) -> float:
        """What the iterations since took, once so many tokens were computed or none come any more."""
        end_s = time.monotonic() + SETTLE_S
        while True:
            noted = [msgspec.json.decode(line, type=Noted) for line in self.lines()[seen:]]
            if sum(one.new_tokens for one in noted) >= tokens or time.monotonic() > end_s:
                return sum(one.ms for one in noted) / 1e3
            await asyncio.sleep(0.002)

    def _tokens(self, rng: np.random.Generator, count: int) -> list[int]:
        last = min(LAST_TOKEN_ID, self.task.vocabulary)
        return rng.integers(min(FIRST_TOKEN_ID, last // 2), last, count).tolist()  # type: ignore[no-any-return]

    async def _complete(self, burst: Burst) -> None:
        prefix = self._tokens(np.random.default_rng(burst.behind_tokens), burst.behind_tokens)
        prompt = prefix + self._tokens(self._rng, burst.prompt_tokens)
        body = {
            "model": self.task.profile.model, "prompt": prompt, "max_tokens": burst.output_tokens, "ignore_eos": True,
            "temperature": 0,
        }  # fmt: skip
        async with self.session.post(f"{self.url}/v1/completions", json=body) as response:
            if response.status != 200:
                raise MeasurementFailed(f"{response.url} answered {response.status}: {(await response.text())[:200]}")
            await response.read()
