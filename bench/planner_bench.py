"""How long the planner takes: the complete call, admission of all new requests and the next batch, on made-up jobs.

Beside it, how long it takes to rehearse all admitted requests at once (`planner.rehearsal`), before any promise; and
how long one decision on one arrival takes, with more and more replicas to choose among.

The jobs are drawn so that the call has something to decide: deadlines overlap and not all new requests fit. Times are
of the calling thread's wall clock; `cpu` is the time it actually ran, which a busy machine's other work can't lengthen.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from slosgate.bench.results import Row
from slosgate.planner.admission import admit
from slosgate.planner.controller import Arrival, ReplicaState, rehearsed, waiting_load
from slosgate.planner.desk import decide
from slosgate.planner.jobs import JobTable
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.slack import next_batch

TIERS_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
ACCEPTANCE = 0.7
WARM_UP = 20
FLEETS = (1, 8, 32, 64)  # replicas that one decision chooses among
QUEUED = 2  # guaranteed prompts on each of them


@dataclass(frozen=True, slots=True)
class Case:
    """A size of the problem."""

    running: int
    new: int
    tiers: int
    speculation: bool


def growth(tiers: int) -> Iterator[Case]:
    """32 to 1024 running with 32 new, and 1 to 128 new with 256 running."""
    for speculation in (False, True):
        for running in (32, 64, 128, 256, 512, 1024):
            yield Case(running, 32, tiers, speculation)
        for new in (1, 2, 4, 8, 16, 64, 128):
            yield Case(256, new, tiers, speculation)


def draw_jobs(case: Case, profile: HardwareProfile, rng: np.random.Generator) -> JobTable:
    """Guaranteed decodes midway through their outputs, and new prefills at 2 to 8 times their zero-load TTFT."""
    jobs, acceptance = JobTable(case.running + case.new), ACCEPTANCE if case.speculation else 0.0
    tpot_s = rng.choice(TIERS_S[: case.tiers], case.running + case.new).tolist()
    drawn = zip(
        rng.integers(1, 100, case.running).tolist(), rng.uniform(0, 0.05, case.running).tolist(),
        rng.integers(20, 400, case.running).tolist(), rng.integers(1, 200, case.running).tolist(), strict=True,
    )  # fmt: skip
    for n, (generated, due_s, context, left) in enumerate(drawn):
        jobs.add(
            f"running-{n}", deadline_s=-1.0, due_base_s=due_s - generated * 0.05, tpot_s=tpot_s.pop(), prompt_left=0,
            context=context, generated=generated, output=generated + left, guaranteed=True, acceptance=acceptance,
        )  # fmt: skip
    waiting = zip(
        rng.integers(20, 1500, case.new).tolist(), rng.uniform(2, 8, case.new).tolist(),
        rng.integers(5, 400, case.new).tolist(), strict=True,
    )  # fmt: skip
    for n, (prompt, slowdown, output) in enumerate(waiting):
        jobs.add(
            f"new-{n}", deadline_s=slowdown * profile.zero_load_ttft_s(prompt), tpot_s=tpot_s.pop(),
            prompt_left=prompt, output=output, guaranteed=False, acceptance=acceptance,
        )  # fmt: skip
    return jobs


def measure(case: Case, profile: HardwareProfile, calls: int, seed: int) -> Row:
    """A row of results: percentiles over `calls` different tables."""
    rng = np.random.default_rng(seed)
    wall, cpu, rehearsal, exact, accepted = [], [], [], 0, 0
    collecting = gc.isenabled()
    gc.disable()
    for call in range(-WARM_UP, calls):
        jobs = draw_jobs(case, profile, rng)
        rows, state = jobs.rows, ReplicaState("", profile, jobs, profile.kv_blocks // 2)
        candidate = ~rows["guaranteed"]
        started, ran = time.perf_counter(), time.thread_time()
        admission = admit(rows, candidate, profile, 0.0, profile.kv_blocks // 2)
        promised = rows.copy()
        promised["guaranteed"] |= admission.accepted
        next_batch(promised, profile, 0.0, profile.kv_blocks // 2)
        ended, stopped = time.perf_counter(), time.thread_time()
        rehearsed(rows, admission.accepted, state, 0.0)
        rehearsal.append((time.thread_time() - stopped) * 1e3)
        if call >= 0:
            wall.append((ended - started) * 1e3)
            cpu.append((stopped - ran) * 1e3)
            exact += admission.exact
            accepted += int(admission.accepted.sum())
    if collecting:
        gc.enable()
    return {
        "running": case.running, "new": case.new, "tiers": case.tiers, "speculation": case.speculation,
        "p50_ms": float(np.percentile(wall, 50)), "p99_ms": float(np.percentile(wall, 99)),
        "p50_cpu_ms": float(np.percentile(cpu, 50)), "p99_cpu_ms": float(np.percentile(cpu, 99)),
        "p99_rehearsal_cpu_ms": float(np.percentile(rehearsal[WARM_UP:], 99)),
        "calls": calls, "accepted": accepted / calls, "exact": exact / calls,
    }  # fmt: skip


def decisions(running: int, tiers: int, profile: HardwareProfile, calls: int, seed: int) -> list[Row]:
    """A row for each fleet: one decision on an arrival, where `running` guaranteed requests decode on every replica.

    All fleets are asked about the same arrivals, in turn, so that a busy machine slows them alike.
    """
    rng = np.random.default_rng(seed)
    fleets = {count: [_replica(n, running, tiers, profile, rng) for n in range(count)] for count in FLEETS}
    wall: dict[int, list[float]] = {count: [] for count in FLEETS}
    cpu: dict[int, list[float]] = {count: [] for count in FLEETS}
    for call in range(-WARM_UP, calls):
        arrival = Arrival(
            f"new-{call}", float(rng.uniform(0.5, 1.5)), float(rng.choice(TIERS_S[:tiers])),
            int(rng.integers(20, 1500)), int(rng.integers(5, 400)),
        )  # fmt: skip
        for count, replicas in fleets.items():
            started, ran = time.perf_counter(), time.thread_time()
            decide(arrival, replicas, 0.0)
            if call >= 0:
                wall[count].append((time.perf_counter() - started) * 1e3)
                cpu[count].append((time.thread_time() - ran) * 1e3)
    return [
        {
            "replicas": count, "running": running, "new": 1, "tiers": tiers, "speculation": False,
            "p50_ms": float(np.percentile(wall[count], 50)), "p99_ms": float(np.percentile(wall[count], 99)),
            "p50_cpu_ms": float(np.percentile(cpu[count], 50)), "p99_cpu_ms": float(np.percentile(cpu[count], 99)),
            "calls": calls,
            "times_one": round(float(np.percentile(cpu[count], 50) / np.percentile(cpu[FLEETS[0]], 50)), 3),
        }
        for count in FLEETS
    ]  # fmt: skip


def _replica(number: int, running: int, tiers: int, profile: HardwareProfile, rng: np.random.Generator) -> ReplicaState:
    """As a gateway knows it: what waits there is counted already."""
    jobs = draw_jobs(Case(running, QUEUED, tiers, speculation=False), profile, rng)
    jobs.rows["guaranteed"] = True
    return ReplicaState(str(number), profile, jobs, profile.kv_blocks // 2, waiting=waiting_load(jobs.rows))
