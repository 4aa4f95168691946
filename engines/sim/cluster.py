"""A serving system in virtual time: offered requests in, the time of every token out.

run = simulate(system, requests)
run.jobs       one StageJob for each stage, in the requests' order
run.replicas   counters and memory use of each replica
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slosgate.engines.sim.contents import contents
from slosgate.engines.sim.fast_forward import TokenLog
from slosgate.engines.sim.kernel import Event, Kernel
from slosgate.engines.sim.replica import Counters, SimReplica
from slosgate.engines.sim.state import EngineRequest, Sequences, Slots
from slosgate.engines.sim.steps import accepted_from
from slosgate.engines.sim.systems.base import BEST_EFFORT, REFUSED, Offered, StageJob, System
from slosgate.planner.compiling import compiled

# Events of one time: what ends makes room before what arrives is placed, and both before an iteration is chosen.
ENDS, ARRIVES, STARTS = 0, 1, 2
FAR = 256  # iterations: none is looked for that ends later
SAMPLE_S = 1.0  # at most this often a replica's memory use is noted


@dataclass(slots=True)
class ReplicaRecord:
    """What one replica did in a run."""

    counters: Counters
    preemptions: int = 0
    best_effort_tokens: int = 0  # output tokens of stages that were never guaranteed
    kv_use: list[tuple[float, float]] = field(default_factory=list)  # (time, share of the KV blocks in use)


@dataclass(frozen=True, slots=True)
class Users:
    """A closed loop: so many at a time, each offering its next request `think_s` after its last one has ended.

    They begin within one think time, evenly, take the requests in their order, and offer none after `until_s`.
    """

    count: int
    think_s: float = 0.0
    until_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Run:
    jobs: list[StageJob]
    replicas: list[ReplicaRecord]
    end_s: float  # time of the last event
    stopped: bool = False  # by a watch, before all had ended or the time was reached


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks at a run every `every_s` seconds and may stop it.

    `stops(time, jobs, token_s)` is given all jobs, and the times of all tokens there will be, each job's from its
    `first` on, nan for those that come later than that time.
    """

    every_s: float
    stops: Callable[[float, Sequence[StageJob], NDArray[np.float64]], bool]


def simulate(
    system: System,
    requests: Sequence[Offered],
    *,
    until_s: float = math.inf,
    watch: Watch | None = None,
    users: Users | None = None,
) -> Run:
    """Serve the requests until all have ended or `until_s` is reached. Deterministic for seeded systems.

    With `users` requests arrive in a closed loop, whatever their own arrival times say.
    """
    return Cluster(system, requests, users).run(until_s, watch)


class Cluster:
    """Drives a system's replicas with one event kernel and records every token."""

    def __init__(self, system: System, requests: Sequence[Offered], users: Users | None = None) -> None:
        self._system = system
        self._users = users
        self._kernel = Kernel()
        self._until_s = math.inf
        self._arrivals_s: list[float] = []  # a heap of when something arrives that is known of now
        block_tokens = system.replicas[0].profile.block_tokens
        stages = [stage_jobs(request, block_tokens) for request in requests]
        self.jobs = [job for jobs in stages for job in jobs]
        self._next = {job.id: following for jobs in stages for job, following in pairwise(jobs)}
        total = 0
        for job in self.jobs:
            job.first = total
            total += job.stage.output_tokens
        self._token_s = np.full(total, np.nan)
        self._lines = [_Line(replica) for replica in system.replicas]
        self._records = [ReplicaRecord(replica.counters) for replica in system.replicas]
        for number, line in enumerate(self._lines):
            line.start, line.end = self._starting(number), self._ending(number)
        self._to_come = iter([jobs[0] for jobs in stages])
        if users is None:
            for job in self._to_come:
                self.at(job.request.arrival_s, self._arrival(job))
        else:
            for n in range(users.count):
                self._offer_next(n / users.count * users.think_s)

    def run(self, until_s: float, watch: Watch | None = None) -> Run:
        self._until_s = until_s
        stopped = watch is not None and self._watched(watch)
        if not stopped:
            self._kernel.run(until_s)
        for line in self._lines:
            line.count_tokens()
        for job in self.jobs:
            job.token_s = self._token_s[job.first : job.first + job.emitted]
            if job.admission == BEST_EFFORT and job.replica >= 0:
                self._records[job.replica].best_effort_tokens += job.emitted
        for record, replica in zip(self._records, self._system.replicas, strict=True):
            record.preemptions = replica.state.preemptions
        return Run(self.jobs, self._records, self._kernel.now_s, stopped)

    def at(self, time_s: float, event: Event) -> None:
        """Do something at a later time, before any iteration that starts then."""

        def arrive(now_s: float) -> None:
            heapq.heappop(self._arrivals_s)  # events come in the order of their times
            event(now_s)

        heapq.heappush(self._arrivals_s, time_s)
        self._kernel.at(time_s, arrive, ARRIVES)

    def submit(self, job: StageJob, replica: int, request: EngineRequest, now_s: float) -> None:
        """Send a job to a replica; its tokens continue where those of an earlier submission ended."""
        engine = self._system.replicas[replica]
        slot = engine.submit(request, now_s)
        job.replica = replica
        brings = self._users is not None and job.last  # its user's next request, which may go anywhere
        self._lines[replica].join(slot, job, brings or self._system.passes_on(job, replica))
        self._kernel.at(engine.ready_s(now_s), self._lines[replica].start, STARTS)

    def wake(self, replica: int, now_s: float) -> None:
        """Have a replica look for work if it is idle."""
        if self._system.replicas[replica].in_flight is None:
            self._kernel.at(now_s, self._lines[replica].start, STARTS)

    def _watched(self, watch: Watch) -> bool:
        """Run to the end with a look now and then; whether that stopped it."""
        time_s = watch.every_s
        while time_s < self._until_s and len(self._kernel):
            self._kernel.run(time_s)
            if watch.stops(time_s, self.jobs, self._token_s):
                return True
            time_s += watch.every_s
        return False

    def _undisturbed_s(self, number: int) -> float:
        """Until when nothing comes to a replica from outside: arrivals, known or brought about by another replica."""
        until_s = self._arrivals_s[0] if self._arrivals_s else math.inf
        for other, line in enumerate(self._lines):
            if other != number and line.passing:
                until_s = min(until_s, line.passes_on_s(self._kernel.next_s()))
        return until_s

    def _arrival(self, job: StageJob) -> Event:
        def arrive(now_s: float) -> None:
            job.arrival_s = now_s
            self._system.arrive(self, job, now_s)
            if self._users is not None and job.admission == REFUSED:
                self._offer_next(now_s + self._users.think_s)

        return arrive

    def _offer_next(self, at_s: float) -> None:
        """A user offers the next request, if there is one and it is not too late."""
        if self._users is None or at_s > self._users.until_s:
            return
        if (job := next(self._to_come, None)) is not None:
            self.at(at_s, self._arrival(job))

    def _starting(self, number: int) -> Event:
        replica, line = self._system.replicas[number], self._lines[number]

        def start(now_s: float) -> None:
            if now_s < line.goes_on_s or replica.in_flight is not None or replica.start(now_s) is None:
                return
            # Nothing can change before that, nor is memory use noted.
            until_s = min(self._undisturbed_s(number), self._until_s, line.sampled_s + SAMPLE_S)
            go_on_s = replica.fast_forward(until_s, TokenLog(self._token_s, line.cursor))
            if replica.in_flight is None:
                line.goes_on_s = go_on_s
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
        job.cached_tokens = self._system.replicas[number].state.hits.get(job.id, 0)
        if not self._system.served(self, job, now_s):
            return
        job.finished = True
        following = self._next.get(job.id)
        if following is not None:
            following.replica = job.replica
            self.at(now_s + job.stage.gap_s, self._arrival(following))
        elif self._users is not None:
            self._offer_next(now_s + self._users.think_s)


def stage_jobs(request: Offered, block_tokens: int) -> list[StageJob]:
    """A request's calls, each with what its context will hold."""
    parts = contents(request.calls, request.id, request.slo_class, block_tokens)
    return [StageJob(request, n, parts=held) for n, held in enumerate(parts)]


class _Line:
    """One replica's jobs, by slot, and where their next token's time goes."""

    def __init__(self, replica: SimReplica) -> None:
        self.start: Event = _nothing  # the events that start and end its iterations, built once
        self.end: Event = _nothing
        self.cursor: Slots = np.zeros(64, dtype=np.int64)
        self.sampled_s = -math.inf  # when memory use was last noted
        self.goes_on_s = -math.inf  # it has been fast-forwarded until then, with nothing in flight
        self.passing: set[int] = set()  # slots whose end may bring something to another replica
        self._jobs: dict[int, StageJob] = {}
        self._replica = replica
        self._shortest_s = max(0.0, *(term.constant_s for term in replica.profile.perf.terms))  # of any iteration

    def join(self, slot: int, job: StageJob, passes_on: bool) -> None:
        while slot >= len(self.cursor):
            self.cursor = np.concatenate([self.cursor, np.zeros_like(self.cursor)])
        self.cursor[slot] = job.first + job.emitted
        self._jobs[slot] = job
        if passes_on:
            self.passing.add(slot)

    def passes_on_s(self, next_s: float) -> float:
        """No passing job ends before that. What is not in flight starts at `next_s` or later."""
        state, profile = self._replica.state, self._replica.profile
        iterations = fewest_iterations(state.sequences, np.array([*self.passing]), profile.max_drafts)
        if self._replica.in_flight is None:
            return next_s + iterations * self._shortest_s
        return self._replica.in_flight.end_s + (iterations - 1) * self._shortest_s

    def leave(self, slot: int) -> StageJob:
        job = self._jobs.pop(slot)
        self.passing.discard(slot)
        job.emitted = int(self.cursor[slot]) - job.first
        return job

    def count_tokens(self) -> None:
        """Note how far the jobs have come that are still here."""
        for slot in list(self._jobs):
            self.leave(slot)


def _nothing(now_s: float) -> None:
    """No event yet."""


@compiled
def fewest_iterations(sequences: Sequences, slots: Slots, drafts: int) -> int:
    """Iterations until the first of these sequences ends, if each drafts so many tokens in every one of them."""
    fewest = FAR
    for slot in slots:
        s = sequences[slot]
        iterations, generated = 0, s.generated
        while generated < s.output and iterations < fewest:
            generated += 1 + accepted_from(s, generated, drafts)
            iterations += 1
        fewest = min(fewest, iterations)
    return fewest


@compiled
def write(token_s: NDArray[np.float64], cursor: Slots, slots: Slots, emitted: Slots, now_s: float) -> None:
    """Note the time of every token an iteration emitted."""
    for i in range(len(slots)):
        for _ in range(emitted[i]):
            token_s[cursor[slots[i]]] = now_s
            cursor[slots[i]] += 1
