"""`make soak`: ten minutes at 80 % load with clients that hang up at random, and a look at what stays behind.

    python -m slosgate.bench.gateway_bench.soak --minutes 10 --json out/soak.json

One gateway, a private Valkey and two simulated replicas. What they can do is measured first, by clients that each wait
for their answer before they ask again; then requests come at the given share of that rate, streaming or not, under an
SLO or not, and some clients hang up before or in the middle of their answer. The exit code is 1 when ledger entries or
sockets stay, when memory keeps growing, or when an answer fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import numpy as np
import typer
from redis.asyncio import Redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from slosgate.bench import processes, results
from slosgate.bench.errors import positive
from slosgate.bench.gateway_bench.proc import rss_bytes, sockets
from slosgate.bench.results import Row
from slosgate.engines.channel import key
from slosgate.gateway.state import valkey

REPLICAS = ("replica-0", "replica-1")
MODEL = "facebook/opt-13b"
SLO = {"x-slo-ttft-ms": "2000", "x-slo-tpot-ms": "100"}
HANG_UPS = 0.3  # of the clients
FAILURES_KEPT = 100  # in the result file
CALIBRATION_S = 20.0
CALIBRATION_CLIENTS = 64  # enough to keep both replicas busy
SPEED = 0.4  # of an H200: the machine must not be what limits
DRAIN_S = 100.0  # longer than replicas keep idle connections
IDLE_SOCKETS = 16  # to Redis, to replicas for their health, and listening
GROWTH_KB_PER_MIN = 512.0  # of resident memory, over the run's second half: less is an allocator's unrest
# Gateways remember beginnings of prompts and keep records, each up to a number: so few are there long before the
# second half, which a leak would outlast.
BEGINNINGS = range(1000, 1200)
CONFIG = f"[admin]\nsha256 = '{'0' * 64}'\nrecords = 500\n"


@dataclass
class Stack:
    url: str
    gateway_pid: int
    redis_url: str


@dataclass
class Snapshot:
    """What the gateway has open at one moment, in seconds since the start."""

    at_s: float
    rss_kb: float
    sockets: int
    ledger: int


@dataclass
class Outcomes:
    """How requests ended: admissions, "hung up", and "failed: WHY"; of the first failures all that is known."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def failed(self, why: str, **known: Any) -> None:
        self.counts[f"failed: {why}"] += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append({"why": why, "at": time.time(), **known})


@dataclass
class Soak:
    rate_rps: float
    outcomes: Outcomes = field(default_factory=Outcomes)
    samples: list[Snapshot] = field(default_factory=list)
    left: Snapshot | None = None

    @property
    def slope_kb_per_min(self) -> float:
        """Growth of resident memory over the second half, by least squares."""
        late = self.samples[len(self.samples) // 2 :]
        if len(late) < 2:
            return 0.0
        return float(np.polyfit([s.at_s / 60 for s in late], [s.rss_kb for s in late], 1)[0])

    def faults(self) -> Iterator[str]:
        """What must not be, in words."""
        assert self.left is not None
        if self.left.ledger:
            yield f"{self.left.ledger} ledger entries stayed"
        if self.left.sockets > IDLE_SOCKETS:
            yield f"{self.left.sockets} sockets stayed open; at most {IDLE_SOCKETS} are idle connections"
        if self.slope_kb_per_min > GROWTH_KB_PER_MIN:
            yield f"memory grew by {self.slope_kb_per_min:.0f} kB a minute; at most {GROWTH_KB_PER_MIN:.0f} is unrest"
        if self.failed:
            yield f"{sum(self.failed.values())} answers failed: {self.failed}"

    @property
    def failed(self) -> dict[str, int]:
        """How many answers failed, by reason."""
        return {name: count for name, count in self.outcomes.counts.items() if name.startswith("failed")}


@contextlib.contextmanager
def stack() -> Iterator[Stack]:
    with contextlib.ExitStack() as ending:
        redis = valkey.start()
        ending.callback(redis.stop)
        options = ["--redis", redis.url, "--speed", str(SPEED)]
        for name in REPLICAS:
            ending.enter_context(processes.simulated_engine("--name", name, *options))
        gateway = ending.enter_context(processes.gateway(redis.url, CONFIG))
        gateway.wait_until_up("/ready", needs=[f'"{name}"' for name in REPLICAS])
        yield Stack(gateway.url, gateway.popen.pid, redis.url)


class Clients:
    """Requests at a rate, whatever becomes of those before."""

    def __init__(self, session: aiohttp.ClientSession, url: str, draw: random.Random) -> None:
        self._session = session
        self._url = f"{url}/v1/completions"
        self._draw = draw

    async def patient(self, clients: int, seconds: float, outcomes: Outcomes) -> float:
        """Measure how many requests per second so many clients get answered when each waits for its answer.

        An overload would leave out the long requests; this leaves out none.
        """
        end_s = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < end_s:
                await self._one(outcomes, hangs_up=False)

        asking = [asyncio.create_task(one()) for _ in range(clients)]
        await asyncio.sleep(seconds / 4)  # they begin all at once
        before = outcomes.counts.total()
        await asyncio.sleep(seconds / 2)
        answered = outcomes.counts.total() - before
        await asyncio.gather(*asking)
        return answered / (seconds / 2)

    async def offer(self, rate_rps: float, seconds: float, outcomes: Outcomes, *, hang_ups: float) -> None:
        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            due_s = 0.0
            while (due_s := due_s + self._draw.expovariate(rate_rps)) < seconds:
                await asyncio.sleep(max(0.0, began_s + due_s - time.perf_counter()))
                tasks.create_task(self._one(outcomes, self._draw.random() < hang_ups))

    async def _one(self, outcomes: Outcomes, hangs_up: bool) -> None:
        draw = self._draw
        body: dict[str, Any] = {
            "model": MODEL,
            "prompt": [draw.choice(BEGINNINGS)] * draw.randint(50, 1000),
            "max_tokens": draw.randint(10, 100),
            "ignore_eos": True,
            "stream": draw.random() < 0.7,
        }
        headers = SLO if draw.random() < 0.8 else {}
        patience_s = draw.uniform(0.0, 1.5) if hangs_up else None
        asked_s = time.perf_counter()
        asked = {"prompt_tokens": len(body["prompt"]), "stream": body["stream"], "slo": bool(headers)}
        try:
            async with asyncio.timeout(patience_s) as patience:
                await self._ask(body, headers, outcomes)
        except (TimeoutError, aiohttp.ClientError) as exc:
            if patience.expired():
                outcomes.counts["hung up"] += 1
            else:
                outcomes.failed(type(exc).__name__, said=str(exc), after_s=time.perf_counter() - asked_s, **asked)

    async def _ask(self, body: dict[str, Any], headers: dict[str, str], outcomes: Outcomes) -> None:
        async with self._session.post(self._url, json=body, headers=headers) as answer:
            text = await answer.read()
        whole = text.endswith(b"data: [DONE]\n\n") if body["stream"] else text.startswith(b"{")
        if answer.status == 200 and whole:
            outcomes.counts[answer.headers["x-slo-admission"]] += 1
            return
        said = {"request_id": answer.headers.get("x-request-id"), "said": text[-300:].decode(errors="replace")}
        outcomes.failed(f"{answer.status} {_error_code(text)}", **said)


def _error_code(text: bytes) -> str:
    """The code of the error in an answer, or of the last event of a stream."""
    found = re.findall(rb'"code": ?"(\w+)"', text)
    return found[-1].decode() if found else "broke off"


async def soak(found: Stack, *, minutes: float, share: float, seed: int, progress: Progress) -> Soak:
    """Calibrate, load, drain."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = Clients(session, found.url, random.Random(seed))
        task = progress.add_task("measuring what the replicas can do", total=None)
        run = Soak(share * await clients.patient(CALIBRATION_CLIENTS, CALIBRATION_S, Outcomes()))
        progress.update(task, description=f"{run.rate_rps:.1f} requests/s", total=minutes * 60)
        watching = asyncio.create_task(_watch(found, run, progress, task))
        await clients.offer(run.rate_rps, minutes * 60, run.outcomes, hang_ups=HANG_UPS)
        watching.cancel()
    await asyncio.sleep(2.0)
    end_s = time.monotonic() + DRAIN_S
    while time.monotonic() < end_s:
        run.left = await _sample(found, 0.0)
        if not run.left.ledger and run.left.sockets <= IDLE_SOCKETS:
            break
        await asyncio.sleep(0.5)
    return run


async def _watch(found: Stack, run: Soak, progress: Progress, task: Any) -> None:
    began_s = time.monotonic()
    while True:
        await asyncio.sleep(2.0)
        run.samples.append(await _sample(found, time.monotonic() - began_s))
        progress.update(task, completed=time.monotonic() - began_s)


async def _sample(found: Stack, at_s: float) -> Snapshot:
    async with Redis.from_url(found.redis_url) as redis:
        entries = sum([int(await redis.hlen(key("ledger", name))) for name in REPLICAS])
    return Snapshot(at_s, rss_bytes(found.gateway_pid) / 1024, sockets(found.gateway_pid), entries)


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 10.0,
    load: Annotated[float, typer.Option(help="Share of what the replicas can do.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Of arrivals, lengths and hang-ups.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
) -> None:
    """Load a gateway for a while, with clients that hang up, and see what stays behind."""
    positive("--minutes", minutes)
    positive("--load", load)
    config = {"minutes": minutes, "load": load, "hang_ups": HANG_UPS}
    result = results.begin("soak", config, seed=seed, hardware="this machine")
    console = Console()
    with stack() as found, Progress(console=console) as progress:
        run = asyncio.run(soak(found, minutes=minutes, share=load, seed=seed, progress=progress))
    result.rows.append(_row(run))
    console.print(_table(result.rows[0]))
    results.keep(result, console, json)
    if faults := list(run.faults()):
        console.print(*faults, sep="\n")
        raise typer.Exit(1)


def _row(run: Soak) -> Row:
    assert run.left is not None
    rss = [sample.rss_kb for sample in run.samples] or [run.left.rss_kb]
    return {
        "rate_rps": round(run.rate_rps, 2),
        "requests": sum(run.outcomes.counts.values()),
        **{name.replace(" ", "_").replace("-", "_"): run.outcomes.counts[name] for name in
           ("guaranteed", "best-effort", "hung up")},
        "failed": sum(run.failed.values()),
        "failures": run.outcomes.failures,
        "most_ledger_entries": max((s.ledger for s in run.samples), default=0),
        "most_sockets": max((s.sockets for s in run.samples), default=0),
        "ledger_entries_left": run.left.ledger,
        "sockets_left": run.left.sockets,
        "rss_mb_start": round(rss[0] / 1024, 1),
        "rss_mb_end": round(rss[-1] / 1024, 1),
        "rss_kb_per_min": round(run.slope_kb_per_min, 1),
    }  # fmt: skip


def _table(row: Row) -> Table:
    table = Table("what", "how much", title="Soak")
    for name, value in row.items():
        if name != "failures":
            table.add_row(name.replace("_", " "), str(value))
    return table


if __name__ == "__main__":
    typer.run(main)
