"""slosgate's scheduling: the plan follower decides, on this replica as inside vLLM."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from slosgate.engines.calibrating import Calibrator
from slosgate.engines.follower import PlanFollower, add_job, progress_of
from slosgate.engines.messages import Announcement, DraftReport, Plan, RequestProgress, SloArgs
from slosgate.engines.sim.acceptance import AcceptanceRates
from slosgate.engines.sim.fast_forward import Engine, InFlight, TokenLog, Totals
from slosgate.engines.sim.following import Drafting, Rule, Table, follow
from slosgate.engines.sim.policies.base import Outcome
from slosgate.engines.sim.state import EngineRequest, EngineState, Slots
from slosgate.engines.sim.steps import SlotBatch
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import JobTable
from slosgate.planner.kernels import load_s
from slosgate.planner.machine import coefficients, delays_of, machine_of
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.progress import Progress


class SlosgatePolicy:
    """Keeps the follower's table in step with the engine's slots.

    `profile` is what the follower plans with, by default the engine's own; `rates` learn from every draft.
    """

    supports_plans = True

    def __init__(
        self, state: EngineState, *, profile: HardwareProfile | None = None, rates: AcceptanceRates | None = None
    ) -> None:
        planned = profile or state.profile
        self.follower = PlanFollower(planned, Calibrator(planned.perf))
        self._state = state
        self._rates = rates or AcceptanceRates()
        self._busy_for_s = 0.0  # how much longer the device is busy when the next iteration is chosen
        self._class_of_slot: Slots = np.zeros(64, dtype=np.int64)
        self._slot_of_row: Slots = np.zeros(64, dtype=np.int64)
        self._row_of_slot: Slots = np.zeros(64, dtype=np.int64)

    @property
    def epoch(self) -> int:
        return self.follower.epoch

    def add(self, slot: int, now_s: float) -> None:
        # Claimed on arrival, not on its first chunk: the planner counts on the prefix.
        self._state.claim_prefix(slot)
        request = self._state.request(slot)
        self.follower.add(
            _slo(request),
            prompt_tokens=request.prompt_tokens,
            cached_tokens=int(self._state.sequences[slot]["context"]),
            max_tokens=request.max_tokens or request.output_tokens,
            now_s=now_s,
            seen_s=now_s + self._state.overhead_s,
        )
        self._put(len(self.follower.table) - 1, slot)
        if not request.thinking_tokens:
            self.follower.thought(request.id, 0)
        self._class_of_slot = _reaching(self._class_of_slot, slot)
        self._class_of_slot[slot] = self._rates.number(request.slo.slo_class if request.slo else "")

    def jobs(self, in_flight: InFlight | None, unseen: Iterable[tuple[int, float]]) -> JobTable:
        """The jobs as they will be when the iteration in flight has ended, arrivals that wait outside included."""
        table = self.follower.table.copy()
        if in_flight is not None:
            batch = in_flight.batch
            left = self._state.sequences["prompt_left"][batch.prefill]
            first = (left == batch.tokens).astype(np.int64)
            emitted = np.concatenate([np.ones_like(batch.decode), first])
            self._progress(batch, emitted).apply(table, in_flight.end_s)
        for slot, arrival_s in unseen:
            request = self._state.request(slot)
            cached = self._state.cached(request)
            max_tokens = request.max_tokens or request.output_tokens
            add_job(table, _slo(request), request.prompt_tokens, cached, max_tokens, arrival_s)
        return table

    def remove(self, slot: int) -> None:
        # The table moves its last row into the gap.
        self._put(int(self._row_of_slot[slot]), int(self._slot_of_row[len(self.follower.table) - 1]))
        self.follower.remove(self._state.request(slot).id)

    def schedule(self, now_s: float) -> SlotBatch:
        within_s, self._busy_for_s = self._busy_for_s, 0.0
        # What others share is not freed with one of them.
        while victims := self.follower.to_preempt(self._state.pool.free):
            for job_id in victims:
                self._preempt(job_id)
        batch = self.follower.next_batch(now_s, self._state.pool.free, within_s)
        while batch.empty and (stuck := self.follower.stuck()):
            self._preempt(stuck)
            batch = self.follower.next_batch(now_s, self._state.pool.free, within_s)
        slots = self._slot_of_row
        return SlotBatch(slots[batch.decode], batch.drafts, slots[batch.prefill], batch.tokens)

    def chosen_s(self, flight: InFlight) -> float:
        expected_end_s = self._expected_end_s(flight)
        chosen_s = expected_end_s - self.follower.lead_s(expected_end_s, self._state.pool.free)
        self._busy_for_s = expected_end_s - max(flight.start_s, chosen_s)
        return chosen_s

    def awaits(self, start_s: float) -> bool:
        awaits = self.follower.awaits(start_s, self._state.pool.free)
        if awaits:
            self._busy_for_s = 0.0
        return awaits

    def announce(self, slot: int, submitted_s: float) -> None:
        request = self._state.request(slot)
        slo = _slo(request)
        if slo.slo_ttft_ms is not None:
            tokens = request.prompt_tokens - self._state.cached(request)
            coming = Announcement(request.id, tokens, slo.slo_ttft_ms / 1e3, bool(slo.slo_guaranteed))
            self.follower.announce(coming, submitted_s)

    def rests_until_s(self, now_s: float, start_s: float) -> float:
        return self.follower.rests_until_s(now_s, start_s, self._state.pool.free)

    def observe(self, outcome: Outcome) -> None:
        self.follower.record(self._progress(outcome.batch, outcome.emitted), outcome.end_s, outcome.report)
        self._note_thinking(outcome)
        if outcome.report.draft_steps:
            batch = outcome.batch
            self._rates.learn(self._class_of_slot, batch.decode, batch.drafts, outcome.emitted, outcome.done)

    def _note_thinking(self, outcome: Outcome) -> None:
        """Whose thinking has ended with this iteration goes on at the answer's pace."""
        of = self._state.sequences[outcome.slots]
        over = (of["thinking"] > 0) & (of["generated"] >= of["thinking"])
        for slot in outcome.slots[over & (of["generated"] - outcome.emitted < of["thinking"])].tolist():
            self.follower.thought(self._state.request(slot).id, int(self._state.sequences[slot]["thinking"]))

    def fast_forward(self, flight: InFlight, until_s: float, log: TokenLog) -> tuple[Totals, InFlight] | None:
        until_s = min(until_s, self.follower.undisturbed_s())
        if flight.end_s >= until_s:
            return None
        state, real = self._state, self._state.profile
        machine = machine_of(self.follower.profile)
        engine = Engine(state.sequences, state.pool.free, machine.block_tokens, state.coefficients)
        table = Table(self.follower.table.rows, self._slot_of_row, self._row_of_slot)
        delays = delays_of(real)._replace(lead_s=delays_of(self.follower.profile).lead_s)
        rule = Rule(
            machine, self.follower.patience.latest_s, delays, delays_of(self.follower.profile),
            machine_of(real).sizes.captured_tokens, state.looks_ahead, self.follower.profile.launches is not None,
        )  # fmt: skip
        drafting = Drafting(self._rates.counts, self._class_of_slot)
        totals, last = follow(engine, table, rule, flight, until_s, log, drafting)
        return (totals, last) if totals.iterations else None

    def apply(self, plan: Plan) -> None:
        self.follower.apply(plan)

    @property
    def recalibrated(self) -> PerfModel | None:
        return self.follower.recalibrated

    def progress(self, in_flight: InFlight | None) -> tuple[RequestProgress, ...]:
        return progress_of(self.jobs(in_flight, ()))

    def drafts(self) -> tuple[DraftReport, ...]:
        return self._rates.news()

    def _expected_end_s(self, flight: InFlight) -> float:
        return flight.start_s + load_s(coefficients(self.follower.profile.perf), flight.load)

    def _preempt(self, job_id: str) -> None:
        self._state.preempt(self._state.slot_of[job_id])
        self.follower.preempted(job_id)

    def _progress(self, batch: SlotBatch, emitted: Slots) -> Progress:
        return Progress(*advanced(self._row_of_slot, batch.decode, batch.prefill, batch.tokens, emitted))

    def _put(self, row: int, slot: int) -> None:
        self._slot_of_row = _reaching(self._slot_of_row, row)
        self._row_of_slot = _reaching(self._row_of_slot, slot)
        self._slot_of_row[row] = slot
        self._row_of_slot[slot] = row


def _slo(request: EngineRequest) -> SloArgs:
    """The request's SLO under its id on this replica; best effort if it has none."""
    slo = request.slo or SloArgs(slo_id=request.id)
    return slo if slo.slo_id == request.id else msgspec.structs.replace(slo, slo_id=request.id)


def _reaching(array: Slots, index: int) -> Slots:
    """The array, grown if it has to be for `index` to be in it."""
    while index >= len(array):
        array = np.concatenate([array, np.zeros_like(array)])
    return array


@compiled
def advanced(
    row_of_slot: Slots, decode: Slots, prefill: Slots, tokens: Slots, emitted: Slots
) -> tuple[Slots, Slots, Slots, Slots]:
    """(rows, tokens of context gained, prompt tokens among them, output tokens) of an iteration."""
    n, m = len(decode), len(prefill)
    rows, computed, prompt = np.empty(n + m, np.int64), np.empty(n + m, np.int64), np.zeros(n + m, np.int64)
    for i in range(n):
        rows[i], computed[i] = row_of_slot[decode[i]], emitted[i]
    for i in range(m):
        rows[n + i], computed[n + i], prompt[n + i] = row_of_slot[prefill[i]], tokens[i], tokens[i]
    return rows, computed, prompt, emitted
