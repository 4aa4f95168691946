"""What the first-come-first-served policies share: a waiting queue, the running sequences, and eviction.

Running sequences stand in the order they were admitted. When a decode finds no KV block, the last running sequence is
evicted and goes to the head of the waiting queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from slosgate.engines.messages import DraftReport, Plan, RequestProgress
from slosgate.engines.sim.fast_forward import Engine, InFlight, TokenLog, Totals, repeat
from slosgate.engines.sim.policies.base import Outcome, slots
from slosgate.engines.sim.state import EngineState, Sequences, Slots
from slosgate.engines.sim.steps import SlotBatch, blocks_needed
from slosgate.planner.compiling import compiled

WATERMARK = 0.01  # share of the KV blocks that vLLM V0, and engines forked from it, keep free when they admit


class FcfsPolicy:
    """Bookkeeping of a policy without SLOs and plans; `schedule` is what tells them apart."""

    supports_plans = False
    epoch = 0
    recalibrated = None

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._waiting: deque[int] = deque()
        self._running: Slots = slots()
        self._coefficients = state.coefficients
        self._pause_s = 0.0 if state.looks_ahead else state.profile.decide_s

    def chosen_s(self, flight: InFlight) -> float:
        return -np.inf

    def awaits(self, start_s: float) -> bool:
        return False

    def announce(self, slot: int, submitted_s: float) -> None:
        """These engines wait for no request."""

    def rests_until_s(self, now_s: float, start_s: float) -> float:
        return now_s

    def add(self, slot: int, now_s: float) -> None:
        self._waiting.append(slot)

    def remove(self, slot: int) -> None:
        stay = self._running != slot
        if stay.all():
            self._waiting.remove(slot)
        else:
            self._running = self._running[stay]

    def observe(self, outcome: Outcome) -> None:
        """Nothing to learn."""

    def fast_forward(self, flight: InFlight, until_s: float, log: TokenLog) -> tuple[Totals, InFlight] | None:
        if not flight.batch.repeats:
            return None
        profile, state = self._state.profile, self._state
        engine = Engine(state.sequences, state.pool.free, profile.block_tokens, self._coefficients)
        totals, last = repeat(engine, flight, until_s, log, self._pause_s)
        return (totals, last) if totals.iterations else None

    def apply(self, plan: Plan) -> None:
        """These engines know no plans."""

    def progress(self, in_flight: InFlight | None) -> tuple[RequestProgress, ...]:
        """Complete, with no due times: these engines know no SLOs."""
        here = np.array([*self._running.tolist(), *self._waiting], dtype=np.int64)
        sequences = self._state.sequences
        columns = (sequences[name][here].tolist() for name in ("prompt_left", "context", "generated"))
        ids = (self._state.request(slot).id for slot in here.tolist())
        return tuple(
            RequestProgress(name, left, context, generated, float("inf"), False)
            for name, left, context, generated in zip(ids, *columns, strict=True)
        )

    def drafts(self) -> tuple[DraftReport, ...]:
        """Their draft length is fixed."""
        return ()

    def _all_decodes(self, drafts: int) -> tuple[SlotBatch, int]:
        """One decode step of all that decode, and the KV blocks that it leaves free beside those reserved."""
        block, everyone_ran = self._state.profile.block_tokens, True
        while True:
            free = self._state.pool.free - self._reserved()
            done, free, decode, lengths = decode_step(self._state.sequences, self._running, drafts, free, block)
            if done:
                return SlotBatch(decode, lengths, slots(), slots(), repeats=everyone_ran), free
            self._evict_last()
            everyone_ran = False

    def _reserved(self) -> int:
        """KV blocks that are free but not for decodes."""
        return 0

    def _evict_last(self) -> None:
        victim = int(self._running[-1])
        self._running = self._running[:-1]
        self._release(victim)
        self._waiting.appendleft(victim)

    def _release(self, victim: int) -> None:
        """Take a victim's KV; all that it had will be computed again."""
        self._state.preempt(victim)

    def _find_prefix(self, slot: int, free: int) -> int:
        """Let a waiting sequence claim what is here of its prompt; KV blocks left of `free` afterwards."""
        if self._state.sequences[slot]["context"]:
            return free
        before = self._state.pool.free
        self._state.claim_prefix(slot)
        return free - (before - self._state.pool.free)

    def _join(self, joining: Iterable[int]) -> None:
        self._running = np.concatenate([self._running, slots(*joining)])


@compiled
def decode_step(
    sequences: Sequences, running: Slots, drafts: int, free: int, block_tokens: int
) -> tuple[bool, int, Slots, Slots]:
    """(False if blocks ran out, blocks left, decodes, drafts of each) for one step of all that decode."""
    decode, n = np.empty(len(running), np.int64), 0
    for i in range(len(running)):
        if sequences[running[i]].prompt_left > 0:
            continue
        blocks = blocks_needed(sequences, running[i], 1 + drafts, block_tokens)
        if blocks > free:
            return False, free, decode[:0], decode[:0]
        free -= blocks
        decode[n] = running[i]
        n += 1
    return True, free, decode[:n], np.full(n, drafts)
