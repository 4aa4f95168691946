"""A serving system in virtual time: offered requests in, the time of every token out.

run = simulate(system, requests)
run.jobs       one StageJob for each stage, in the requests' order
run.replicas   counters and memory use of each replica
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engines.sim.flight import TokenLog
from engines.sim.kernel import Event, Kernel
from engines.sim.replica import Counters
from engines.sim.state import EngineRequest, Slots
from engines.sim.systems.base import BEST_EFFORT, SimRequest, StageJob, System
from planner.compiling import compiled

# Events of one time: what ends makes room before what arrives is placed, and both before an iteration is chosen.
ENDS, ARRIVES, STARTS = 0, 1, 2
SAMPLE_S = 1.0  # at most this often a replica's memory use is noted


@dataclass(slots=True)
class ReplicaRecord:
    """What one replica did in a run."""

    counters: Counters
    preemptions: int = 0
    best_effort_tokens: int = 0  # output tokens of stages that were never guaranteed
    kv_use: list[tuple[float, float]] = field(default_factory=list)  # (time, share of the KV blocks in use)


@dataclass(frozen=True, slots=True)
class Run:
    jobs: list[StageJob]
    replicas: list[ReplicaRecord]
    end_s: float  # time of the last event


def simulate(system: System, requests: Sequence[SimRequest], *, until_s: float = math.inf) -> Run:
    """Serve the requests until all have ended or `until_s` is reached. Deterministic for seeded systems."""
    return Cluster(system, requests).run(until_s)


class Cluster:
    """Drives a system's replicas with one event kernel and records every token."""

    def __init__(self, system: System, requests: Sequence[SimRequest]) -> None:
        self._system = system
        self._kernel = Kernel()
        self._until_s = math.inf
        stages = [[StageJob(request, n) for n in range(len(request.stages))] for request in requests]
        self.jobs = [job for jobs in stages for job in jobs]
        self._next = {job.id: following for jobs in stages for job, following in pairwise(jobs)}
        total = 0
        for job in self.jobs:
            job.first = total
            total += job.stage.output_tokens
        self._token_s = np.full(total, np.nan)
        self._lines = [_Line() for _ in system.replicas]
        self._records = [ReplicaRecord(replica.counters) for replica in system.replicas]
        for number, line in enumerate(self._lines):
            line.start, line.end = self._starting(number), self._ending(number)
        for jobs in stages:
            self._kernel.at(jobs[0].request.arrival_s, self._arrival(jobs[0]), ARRIVES)

    def run(self, until_s: float) -> Run:
        self._until_s = until_s
        self._kernel.run(until_s)
        for line in self._lines:
            line.count_tokens()
        for job in self.jobs:
            job.token_s = self._token_s[job.first : job.first + job.emitted]
            if job.admission == BEST_EFFORT and job.replica >= 0:
                self._records[job.replica].best_effort_tokens += job.emitted
        for record, replica in zip(self._records, self._system.replicas, strict=True):
            record.preemptions = replica.state.preemptions
        return Run(self.jobs, self._records, self._kernel.now_s)

    def at(self, time_s: float, event: Event) -> None:
        """Do something at a later time, before any iteration that starts then."""
        self._kernel.at(time_s, event, ARRIVES)

    def submit(self, job: StageJob, replica: int, request: EngineRequest, now_s: float) -> None:
        """Send a job to a replica; its tokens continue where those of an earlier submission ended."""
        engine = self._system.replicas[replica]
        slot = engine.submit(request, now_s)
        job.replica = replica
        self._lines[replica].join(slot, job)
        self._kernel.at(engine.ready_s(now_s), self._lines[replica].start, STARTS)

    def wake(self, replica: int, now_s: float) -> None:
        """Have a replica look for work if it is idle."""
        if self._system.replicas[replica].in_flight is None:
            self._kernel.at(now_s, self._lines[replica].start, STARTS)

    def _arrival(self, job: StageJob) -> Event:
        def arrive(now_s: float) -> None:
            job.arrival_s = now_s
            self._system.arrive(self, job, now_s)

        return arrive

    def _starting(self, number: int) -> Event:
        replica, line = self._system.replicas[number], self._lines[number]

        def start(now_s: float) -> None:
            if replica.in_flight is not None or replica.start(now_s) is None:
                return
            # Nothing can change before the next event, nor is memory use noted.
            until_s = min(self._kernel.next_s(), self._until_s, line.sampled_s + SAMPLE_S)
            go_on_s = replica.fly(until_s, TokenLog(self._token_s, line.cursor))
            if replica.in_flight is None:
                self._kernel.at(go_on_s, line.start, STARTS)
            else:
                self._kernel.at(go_on_s, line.end, ENDS)

        return start

    def _ending(self, number: int) -> Event:
        replica, line, record = self._system.replicas[number], self._lines[number], self._records[number]

        def end(now_s: float) -> None:
            outcome = replica.finish()
            write(self._token_s, line.cursor, outcome.slots, outcome.emitted, now_s)
            for slot in outcome.done.tolist():
                self._leave(number, slot, now_s)
            if now_s >= line.sampled_s + SAMPLE_S:
                line.sampled_s = now_s
                record.kv_use.append((now_s, 1.0 - replica.state.pool.free / replica.state.pool.total))
            self._kernel.at(now_s, line.start, STARTS)

        return end

    def _leave(self, number: int, slot: int, now_s: float) -> None:
        job = self._lines[number].leave(slot)
        if not self._system.served(self, job, now_s):
            return
        job.finished = True
        following = self._next.get(job.id)
        if following is not None:
            following.replica = job.replica
            self._kernel.at(now_s + job.stage.gap_s, self._arrival(following), ARRIVES)


class _Line:
    """One replica's jobs, by slot, and where their next token's time goes."""

    def __init__(self) -> None:
        self.start: Event = _nothing  # the events that start and end its iterations, built once
        self.end: Event = _nothing
        self.cursor: Slots = np.zeros(64, dtype=np.int64)
        self.sampled_s = -math.inf  # when memory use was last noted
        self._jobs: dict[int, StageJob] = {}

    def join(self, slot: int, job: StageJob) -> None:
        while slot >= len(self.cursor):
            self.cursor = np.concatenate([self.cursor, np.zeros_like(self.cursor)])
        self.cursor[slot] = job.first + job.emitted
        self._jobs[slot] = job

    def leave(self, slot: int) -> StageJob:
        job = self._jobs.pop(slot)
        job.emitted = int(self.cursor[slot]) - job.first
        return job

    def count_tokens(self) -> None:
        """Note how far the jobs have come that are still here."""
        for slot in list(self._jobs):
            self.leave(slot)


def _nothing(now_s: float) -> None:
    """No event yet."""


@compiled
def write(token_s: NDArray[np.float64], cursor: Slots, slots: Slots, emitted: Slots, now_s: float) -> None:
    """Note the time of every token an iteration emitted."""
    for i in range(len(slots)):
        for _ in range(emitted[i]):
            token_s[cursor[slots[i]]] = now_s
            cursor[slots[i]] += 1
