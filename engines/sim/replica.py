"""A simulated replica: one engine, iteration by iteration, on any clock.

    slot = replica.submit(request, now)
    iteration = replica.start(now)         # None: nothing to run
    outcome = replica.finish(iteration)    # at iteration.end_s; emits tokens, frees what finished

Virtual time calls these from events, the server from a loop that sleeps. The replica reads no clock and draws no
random numbers but its own seeded ones.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from slosgate.engines.messages import IterationReport, Plan, RequestProgress, Telemetry
from slosgate.engines.sim.fast_forward import InFlight, TokenLog
from slosgate.engines.sim.policies.base import Outcome, PolicyFactory
from slosgate.engines.sim.state import EngineRequest, EngineState
from slosgate.engines.sim.steps import SlotBatch, carry_out, place
from slosgate.planner.arrivals import ANNOUNCED_S
from slosgate.planner.launching import begins_s, kind_of
from slosgate.planner.machine import delays_of
from slosgate.planner.profile import HardwareProfile

REPORTS_KEPT = 512  # iteration reports between two telemetry messages


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    iterations: int = 0
    busy_s: float = 0.0
    prompt_tokens: int = 0  # computed, recomputation included
    output_tokens: int = 0
    finished: int = 0
    cancelled: int = 0


class SimReplica:
    """One engine with `profile`'s memory and speed, scheduled by a policy.

    `noise` is the relative standard deviation of iteration times, which are `slowdown` times as long as the profile
    says. With `async_scheduling`, vLLM's default on GPUs, an iteration is chosen while its predecessor runs, as soon as
    the policy wants to. What arrives after that waits for the one after. Without, or when the policy waits for a
    request, the choice takes the profile's `decide_s`, and nothing runs meanwhile. What was chosen has to be launched
    (`planner.launching`), if the profile says how long that takes: an iteration ends no sooner than that. A request can
    be chosen `overhead_s` after it was submitted; the policy hears of it after
    ANNOUNCED_S.
    """

    def __init__(
        self,
        profile: HardwareProfile,
        policy: PolicyFactory,
        *,
        seed: int = 0,
        noise: float = 0.0,
        async_scheduling: bool = False,
        overhead_s: float = 0.0,
        slowdown: float = 1.0,
    ) -> None:
        self.profile = profile
        self.state = EngineState(profile, seed, looks_ahead=async_scheduling, slowdown=slowdown, overhead_s=overhead_s)
        self.policy = policy(self.state)
        self.counters = Counters()
        self.reports: deque[IterationReport] = deque(maxlen=REPORTS_KEPT)
        self.in_flight: InFlight | None = None
        self._noise = noise
        self._random = np.random.default_rng(seed)
        self.unseen: deque[tuple[int, float]] = deque()  # slots the policy has not been told of, with arrivals
        self.previous: InFlight | None = None  # the iteration that ended last
        self._gone: list[int] = []  # cancelled while their iteration runs

    def submit(self, request: EngineRequest, now_s: float) -> int:
        """Take a request in and return its slot. Raises ValueError for a known id or one that can never fit."""
        slot = self.state.admit(request)
        if self.state.looks_ahead or self.state.overhead_s:
            self.unseen.append((slot, now_s))
        else:
            self.policy.add(slot, now_s)
        return slot

    def cancel(self, request_id: str) -> bool:
        """Forget a request, at once or when the iteration that runs it ends; False for an unknown id."""
        slot = self.state.slot_of.get(request_id)
        if slot is None or self.state.sequences[slot]["gone"]:
            return False
        self.counters.cancelled += 1
        if self.in_flight is not None and self._runs(self.in_flight.batch, slot):
            self.state.sequences[slot]["gone"] = True
            self._gone.append(slot)
        else:
            self._forget(slot)
        return True

    def ready_s(self, submitted_s: float) -> float:
        """When a request submitted then can first be chosen."""
        return submitted_s + self.state.overhead_s

    def start(self, now_s: float) -> InFlight | None:
        """Choose and start the next iteration; None when nothing may run. None must be in flight."""
        if self.in_flight is not None:
            raise RuntimeError("an iteration is still in flight")
        start_s, chosen_s = self._decided(now_s)
        self.in_flight = self._begin(self.policy.schedule(start_s), start_s, chosen_s)
        if self.in_flight is None and self.unseen:
            self._show_arrivals(now_s)
            self.in_flight = self._begin(self.policy.schedule(now_s), now_s, now_s)
        return self.in_flight

    def finish(self) -> Outcome:
        """End the iteration in flight at its `end_s`: tokens appear, whatever is done or cancelled leaves."""
        iteration, self.in_flight = self.in_flight, None
        if iteration is None:
            raise RuntimeError("no iteration is in flight")
        batch, report = iteration.batch, iteration.report
        slots, emitted, done, total = carry_out(self.state.sequences, batch)
        outcome = Outcome(batch, slots, emitted, done, report, iteration.end_s)
        self.reports.append(report)
        self._add(1, report.duration_s, iteration.prompt_tokens, total)
        self.counters.finished += len(done)
        self.policy.observe(outcome)
        if len(done) or self._gone:
            for slot in (*done.tolist(), *self._gone):
                self._forget(slot)
            self._gone.clear()
        self.previous = iteration
        return outcome

    def fast_forward(self, until_s: float, log: TokenLog) -> float:
        """Carry out what is in flight and what follows, while it ends before `until_s`; when to go on from there.

        Then the iteration in flight ends, or, if none is, the next one starts. The same as `finish` and `start` one by
        one, and much faster; reports of single iterations are not kept.
        """
        iteration = self.in_flight
        if iteration is None:
            raise RuntimeError("no iteration is in flight")
        if self._noise or self.unseen or self._gone:
            return iteration.end_s
        forwarded = self.policy.fast_forward(iteration, until_s, log)
        if forwarded is None:
            return iteration.end_s
        totals, last = forwarded
        if totals.blocks:
            self.state.pool.take(totals.blocks)
        self._add(totals.iterations, totals.busy_s, totals.prompt_tokens, totals.output_tokens)
        if last.ended:
            self.in_flight, self.previous = None, last
        else:
            self.in_flight = last
        return last.end_s

    def apply(self, plan: Plan) -> None:
        """Follow a plan from the next iteration on, if the policy follows plans."""
        self.policy.apply(plan)

    def telemetry(self, name: str, now_s: float) -> Telemetry:
        """A report; the iterations, drafts and prefixes in it are those since the last one."""
        iterations, prefixes = tuple(self.reports), tuple(self.state.told.values())
        self.reports.clear()
        self.state.told.clear()
        return Telemetry(
            replica=name,
            sent_at_s=now_s,
            epoch=self.policy.epoch,
            busy_for_s=max(0.0, self.in_flight.end_s - now_s) if self.in_flight else 0.0,
            kv_blocks_total=self.state.pool.total,
            kv_blocks_free=self.state.pool.free,
            iterations=iterations,
            progress=(*self.policy.progress(self.in_flight), *(self._unseen_progress(slot) for slot, _ in self.unseen)),
            drafts=self.policy.drafts(),
            prefixes=prefixes,
            perf=self.policy.recalibrated,
        )

    @property
    def requests(self) -> int:
        """Requests on the replica, running or waiting."""
        return len(self.state.slot_of)

    def _unseen_progress(self, slot: int) -> RequestProgress:
        request = self.state.request(slot)
        cached, switch_at = self.state.cached(request), request.slo.slo_switch_at if request.slo else 0
        return RequestProgress(request.id, request.prompt_tokens - cached, cached, 0, float("inf"), False, switch_at)

    def _launch_s(self, batch: SlotBatch) -> float:
        """How long the host takes to give it to the device."""
        if self.profile.launches is None:
            return 0.0
        captured_tokens = self.profile.launches.captured_tokens
        kind = kind_of(batch.decode, batch.drafts, batch.tokens, captured_tokens)
        return float(delays_of(self.profile).launch_s[kind])

    def _decided(self, now_s: float) -> tuple[float, float]:
        """Show the policy what has arrived when it chooses what follows now; when that can start, and when it chose."""
        before = self.previous
        if before is None or before.end_s < now_s:
            return self._rested(now_s, 0.0)
        if self.state.looks_ahead:
            chosen_s = self.policy.chosen_s(before)
            self._show_arrivals(min(now_s, max(before.start_s, chosen_s)))
            start_s = max(now_s, chosen_s + self.profile.decide_s)
            if not self.policy.awaits(start_s):
                return start_s, max(before.start_s, chosen_s)
        return self._rested(now_s, self.profile.decide_s)

    def _rested(self, now_s: float, decide_s: float) -> tuple[float, float]:
        """The same, when nothing is in flight any more: what is on its way may be waited for."""
        self._show_arrivals(now_s)
        if not self.unseen:
            return now_s + decide_s, now_s
        until_s = self.policy.rests_until_s(now_s, now_s + decide_s)
        self._show_arrivals(until_s)
        return until_s + decide_s, until_s

    def _show_arrivals(self, until_s: float) -> None:
        """Tell the policy what has come by then, and what has been announced."""
        while self.unseen and self.ready_s(self.unseen[0][1]) <= until_s:
            self.policy.add(*self.unseen.popleft())
        for slot, submitted_s in self.unseen:
            if submitted_s + ANNOUNCED_S <= until_s:
                self.policy.announce(slot, submitted_s)

    def _begin(self, wanted: SlotBatch, free_s: float, chosen_s: float) -> InFlight | None:
        """Give the batch its blocks and its time; None when nothing of it can run.

        It was chosen at `chosen_s`, and the device can begin with it from `free_s` on.
        """
        launch_s = self._launch_s(wanted)
        free, block_tokens = self.state.pool.free, self.profile.block_tokens
        placed = place(self.state.sequences, wanted, free, block_tokens, self.state.coefficients)
        duration_s = placed.duration_s
        if not placed.load.new:
            return None
        if placed.blocks:
            self.state.pool.take(placed.blocks)
        if self._noise:
            duration_s *= max(0.1, 1.0 + self._noise * float(self._random.standard_normal()))
        batch = wanted.first(placed.decodes, placed.prefills)
        start_s = begins_s(free_s, chosen_s, launch_s, duration_s)
        return InFlight(batch, start_s, start_s + duration_s, placed.load, placed.prompt_tokens)

    def _forget(self, slot: int) -> None:
        for unseen in self.unseen:
            if unseen[0] == slot:
                self.unseen.remove(unseen)
                break
        else:
            self.policy.remove(slot)
        self.state.release(slot)

    def _runs(self, batch: SlotBatch, slot: int) -> bool:
        return bool((batch.decode == slot).any() or (batch.prefill == slot).any())

    def _add(self, iterations: int, busy_s: float, prompt_tokens: int, output_tokens: int) -> None:
        self.counters.iterations += iterations
        self.counters.busy_s += busy_s
        self.counters.prompt_tokens += prompt_tokens
        self.counters.output_tokens += output_tokens
