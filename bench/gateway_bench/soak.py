"""`make soak`: ten minutes at 80 % load with clients that hang up at random, and a look at what stays behind.

    python -m slosgate.bench.gateway_bench.soak --minutes 10 --json out/soak.json

One gateway, a private Valkey and two simulated replicas. What they can do is measured first, by clients that each wait
for their answer before they ask again; then requests come at the given share of that rate, streaming or not, under an
SLO or not, with tools, media, long uploads and slow readers (`visits.py`), and some clients hang up before or in the
middle of their answer. Every minute a replica is restarted: the streams that it has begun may end with an error event,
all other requests are served. The exit code is 1 when ledger entries or sockets stay, when memory keeps growing, or
when an answer fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
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
from slosgate.bench.gateway_bench import visits
from slosgate.bench.gateway_bench.proc import rss_bytes, sockets
from slosgate.bench.gateway_bench.visits import Visit
from slosgate.bench.results import Row
from slosgate.engines.cancelling import ended
from slosgate.engines.channel import key
from slosgate.gateway.state import valkey

REPLICAS = ("replica-0", "replica-1")
HANG_UPS = 0.3  # of the clients
FAILURES_KEPT = 100  # in the result file
CALIBRATION_S = 20.0
CALIBRATION_CLIENTS = 64  # enough to keep both replicas busy
SPEED = 0.4  # of an H200: the machine must not be what limits
DRAIN_S = 100.0  # longer than replicas keep idle connections
IDLE_SOCKETS = 16  # to Redis, to replicas for their health, and listening
GROWTH_KB_PER_MIN = 512.0  # of resident memory, over the run's second half: less is an allocator's unrest
RESTART_S = 60.0
CONFIG = f"[admin]\nsha256 = '{'0' * 64}'\nrecords = 500\n"


class Restarted:
    """The replicas: one after the other is ended and started again."""

    def __init__(self, options: list[str]) -> None:
        self.restarts = 0
        self._options = options
        self._running: dict[str, contextlib.ExitStack] = {}
        self._down: list[tuple[str, float, float]] = []  # who, from when, until when

    def start(self, name: str) -> None:
        self._running[name] = running = contextlib.ExitStack()
        running.enter_context(processes.simulated_engine("--name", name, *self._options))

    def stop(self) -> None:
        for running in self._running.values():
            running.close()

    def restart(self, name: str) -> None:
        """Takes as long as the replica has to say goodbye."""
        self._down.append((name, time.monotonic(), math.inf))
        self._running[name].close()
        self._down[-1] = (name, self._down[-1][1], time.monotonic())
        self.start(name)
        self.restarts += 1

    def was_down(self, name: str, since_s: float) -> bool:
        """Whether the replica of this name has ended since then."""
        return any(who == name and until_s >= since_s for who, _, until_s in self._down)

    async def keep_restarting(self, every_s: float) -> None:
        """Until cancelled."""
        for name in itertools.cycle(REPLICAS):
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self.restart, name)


@dataclass
class Stack:
    url: str
    gateway_pid: int
    redis_url: str
    fleet: Restarted


@dataclass
class Snapshot:
    """What the gateway has open at one moment, in seconds since the start."""

    at_s: float
    rss_kb: float
    sockets: int
    ledger: int


@dataclass
class Outcomes:
    """How requests ended: admissions, "hung up", "told of a restart", and "failed: WHY"; of the first failures all that
    is known."""

    offered: Counter[str] = field(default_factory=Counter)  # by kind
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
    restarts: int = 0

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
        if unended := self.outcomes.offered.total() - self.outcomes.counts.total():
            yield f"{unended} requests have no end"
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
        fleet = Restarted(["--redis", redis.url, "--speed", str(SPEED)])
        ending.callback(fleet.stop)
        for name in REPLICAS:
            fleet.start(name)
        gateway = ending.enter_context(processes.gateway(redis.url, CONFIG))
        gateway.wait_until_up("/ready", needs=[f'"{name}"' for name in REPLICAS])
        yield Stack(gateway.url, gateway.popen.pid, redis.url, fleet)


class Clients:
    """Requests at a rate, whatever becomes of those before."""

    def __init__(self, session: aiohttp.ClientSession, found: Stack, draw: random.Random) -> None:
        self._session = session
        self._found = found
        self._draw = draw

    async def patient(self, clients: int, seconds: float, outcomes: Outcomes) -> float:
        """Measure how many requests per second so many clients get answered when each waits for its answer.

        An overload would leave out the long requests; this leaves out none.
        """
        end_s = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < end_s:
                await self._one(visits.plain(self._draw), outcomes)

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
                visit = visits.drawn(self._draw, hangs_up=hang_ups)
                outcomes.offered[visit.kind] += 1
                tasks.create_task(self._one(visit, outcomes))

    async def _one(self, visit: Visit, outcomes: Outcomes) -> None:
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(visit.patience_s) as patience:
                answer, text = await visit.ask(self._session, self._found.url)
        except (TimeoutError, aiohttp.ClientError) as exc:
            if patience.expired():
                outcomes.counts["hung up"] += 1
            else:
                after_s = time.monotonic() - asked_s
                outcomes.failed(type(exc).__name__, said=str(exc), after_s=after_s, kind=visit.kind)
            return
        if visit.complete(answer, text):
            outcomes.counts[answer.headers["x-slo-admission"]] += 1
        elif self._found.fleet.was_down(answer.headers.get("x-slo-replica", ""), asked_s) and _is_told(text):
            outcomes.counts["told of a restart"] += 1
        else:
            said = {"request_id": answer.headers.get("x-request-id"), "said": text[-300:].decode(errors="replace")}
            outcomes.failed(f"{answer.status} {_error_code(text)}", **said, kind=visit.kind)


def _is_told(text: bytes) -> bool:
    """Whether a stream that its replica did not end says so: no client may take it for whole."""
    return text.startswith(b"data: ") and text.endswith(b"\n\n") and _error_code(text) == "replica_lost"


def _error_code(text: bytes) -> str:
    """The code of the error in an answer, or of the last event of a stream."""
    found = re.findall(rb'"code": ?"(\w+)"', text)
    return found[-1].decode() if found else "broke off"


async def soak(found: Stack, *, minutes: float, share: float, seed: int, progress: Progress) -> Soak:
    """Calibrate, load, drain."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = Clients(session, found, random.Random(seed))
        task = progress.add_task("measuring what the replicas can do", total=None)
        run = Soak(share * await clients.patient(CALIBRATION_CLIENTS, CALIBRATION_S, Outcomes()))
        progress.update(task, description=f"{run.rate_rps:.1f} requests/s", total=minutes * 60)
        beside = [
            asyncio.create_task(_watch(found, run, progress, task)),
            asyncio.create_task(found.fleet.keep_restarting(RESTART_S)),
        ]
        await clients.offer(run.rate_rps, minutes * 60, run.outcomes, hang_ups=HANG_UPS)
        await ended(beside)
    run.restarts = found.fleet.restarts
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
           ("guaranteed", "best-effort", "hung up", "told of a restart")},
        "by_kind": dict(run.outcomes.offered),
        "restarts": run.restarts,
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
