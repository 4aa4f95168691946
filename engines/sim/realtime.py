"""A simulated replica in real time: one task that sleeps each iteration out and hands its tokens to their streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from slosgate.engines.messages import Plan, Telemetry
from slosgate.engines.sim.policies.base import Outcome
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile

MAX_LAG_S = 0.25  # a loop this late was starved of CPU and cannot catch up without bursts


class TokenStream:
    """The tokens of one request, from the engine's loop to its answer; they add up until they are read."""

    def __init__(self, arrival_s: float) -> None:
        self.arrival_s = arrival_s
        self.first_s = 0.0  # when the first token was emitted, 0 before
        self.emitted = 0
        self._unread = 0
        self._done = False
        self._reader: asyncio.Future[None] | None = None

    async def read(self) -> tuple[int, bool]:
        """Wait for news: (tokens since the last read, whether they are the last)."""
        if not self._unread and not self._done:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        count, self._unread = self._unread, 0
        return count, self._done

    def feed(self, count: int, now_s: float, *, done: bool) -> None:
        if not self.emitted:
            self.first_s = now_s
        self.emitted += count
        self._unread += count
        self._done = done
        if self._reader is not None:
            if not self._reader.done():
                self._reader.set_result(None)
            self._reader = None


class RealTimeEngine:
    """Runs a replica against the wall clock.

    Iterations follow each other on a schedule of their own: the next one starts when the model says that the last one
    ended, not when the task woke up, so that timer jitter never adds up. `on_iteration` is told of each one's outcome,
    `on_finish` of each request's stream and its finish reason.
    """

    def __init__(self, replica: SimReplica, clock: Callable[[], float]) -> None:
        self.replica = replica
        self.clock = clock
        self.late_s = 0.0  # wall time lost because the loop could not keep up
        self.on_iteration: list[Callable[[Outcome], None]] = []
        self.on_finish: list[Callable[[TokenStream], None]] = []
        self._streams: dict[int, TokenStream] = {}
        self._work = asyncio.Event()

    def submit(self, request: EngineRequest) -> TokenStream:
        """Take a request in. Raises ValueError when it can never fit or its id is known."""
        now_s = self.clock()
        stream = TokenStream(now_s)
        self._streams[self.replica.submit(request, now_s)] = stream
        self._work.set()
        return stream

    def cancel(self, request_id: str) -> None:
        """Forget a request; its blocks are free when the iteration in flight has ended. Unknown ids are ignored."""
        slot = self.replica.state.slot_of.get(request_id)
        if slot is not None and self.replica.cancel(request_id):
            del self._streams[slot]
            self._work.set()

    def apply(self, plan: Plan) -> None:
        """Follow a plan from the next iteration on."""
        self.replica.apply(plan)
        self._work.set()

    def telemetry(self, name: str) -> Telemetry:
        return self.replica.telemetry(name, self.clock())

    async def run(self) -> None:
        """Serve until cancelled."""
        start_s = self.clock()
        while True:
            self._work.clear()
            iteration = self.replica.start(start_s)
            if iteration is None:
                start_s = await self._next_start_s()
                continue
            # Sleep even when late: the server has to breathe.
            await asyncio.sleep(max(0.0, iteration.end_s - self.clock()))
            self._deliver(self.replica.finish())
            start_s = iteration.end_s
            lag_s = self.clock() - start_s
            if lag_s > MAX_LAG_S:
                self.late_s += lag_s
                start_s += lag_s

    async def _next_start_s(self) -> float:
        """Wait until there is something to do; when to begin with it."""
        if not self.replica.unseen:
            await self._work.wait()
            return self.clock()
        # It came after the moment at which the last iteration ended, and before this task took notice of that.
        start_s = max(self.clock(), self.replica.ready_s(self.replica.unseen[0][1]))
        await asyncio.sleep(start_s - self.clock())
        return start_s

    def _deliver(self, outcome: Outcome) -> None:
        done = set(outcome.done.tolist())
        for slot, count in zip(outcome.slots.tolist(), outcome.emitted.tolist(), strict=True):
            if not count or slot not in self._streams:
                continue
            stream = self._streams[slot]
            stream.feed(count, outcome.end_s, done=slot in done)
            if slot in done:
                del self._streams[slot]
                for tell in self.on_finish:
                    tell(stream)
        for tell_outcome in self.on_iteration:
            tell_outcome(outcome)


def faster(profile: HardwareProfile, speed: float) -> HardwareProfile:
    """The same replica with every iteration `speed` times as fast."""
    if speed == 1.0:
        return profile
    terms = tuple(
        Term(**{name: value / speed for name, value in msgspec.structs.asdict(term).items()})
        for term in profile.perf.terms
    )
    return msgspec.structs.replace(
        profile,
        perf=PerfModel(terms),
        request_overhead_s=profile.request_overhead_s / speed,
        decide_s=profile.decide_s / speed,
        lead_s=profile.lead_s / speed,
    )
