"""vLLM V1 as it schedules by default (vllm/v1/core/sched/scheduler.py, 0.25.1).

One token budget for decodes and prefills alike. Running sequences come first, in the order they were admitted; each
takes what it lacks, a prefill maybe only a part. When no KV block is left the last running sequence is preempted, to
be computed again. Then waiting sequences are admitted, first come first served, while budget, blocks for the whole
prompt and sequences last; not in an iteration that preempted.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from engines.messages import Plan, RequestProgress
from engines.sim.policies.base import Outcome, SlotBatch, slots
from engines.sim.state import EngineState, Sequences, Slots
from engines.sim.steps import blocks_needed
from planner.compiling import compiled


class VllmPolicy:
    """`budget` overrides the profile's max_batched_tokens; `drafts` is a fixed speculation length."""

    supports_plans = False
    epoch = 0

    def __init__(self, state: EngineState, *, budget: int | None = None, drafts: int = 0) -> None:
        self._state = state
        self._budget = budget or state.profile.max_batched_tokens
        self._drafts = drafts
        self._waiting: deque[int] = deque()
        self._running: Slots = slots()

    def add(self, slot: int, now_s: float) -> None:
        self._waiting.append(slot)

    def remove(self, slot: int) -> None:
        if slot in self._waiting:
            self._waiting.remove(slot)
        else:
            self._running = self._running[self._running != slot]

    def schedule(self, now_s: float) -> SlotBatch:
        chunk, budget, free, preempted = self._serve_running()
        if not preempted and budget and self._waiting:
            admitted = self._admit(budget, free)
            chunk = np.concatenate([chunk, slots(*admitted)])
        return SlotBatch(*split(self._state.sequences, self._running, chunk))

    def observe(self, outcome: Outcome) -> None:
        """Nothing to learn."""

    def apply(self, plan: Plan) -> None:
        """vLLM knows no plans."""

    def progress(self) -> tuple[RequestProgress, ...]:
        """Complete, with no due times: vLLM knows no SLOs."""
        sequences = self._state.sequences
        return tuple(
            RequestProgress(
                request_id=self._state.request(slot).id,
                prompt_left=int(sequences[slot]["prompt_left"]),
                context_tokens=int(sequences[slot]["context"]),
                generated_tokens=int(sequences[slot]["generated"]),
                due_base_s=float("inf"),
                guaranteed=False,
            )
            for slot in (*self._running.tolist(), *self._waiting)
        )

    def _serve_running(self) -> tuple[Slots, int, int, bool]:
        """(new tokens of each running sequence, budget left, blocks left, whether anyone was preempted)."""
        sequences, block = self._state.sequences, self._state.profile.block_tokens
        chunk = np.zeros(len(self._running), dtype=np.int64)
        budget, free, first, preempted = self._budget, self._state.pool.free, 0, False
        while True:
            first, budget, free = serve(sequences, self._running, chunk, first, budget, free, self._drafts, block)
            if first == len(self._running):
                return chunk, budget, free, preempted
            victim = int(self._running[-1])
            self._running, chunk = self._running[:-1], chunk[:-1]
            free += int(sequences[victim]["blocks"])
            self._state.preempt(victim)
            self._waiting.appendleft(victim)
            preempted = True

    def _admit(self, budget: int, free: int) -> list[int]:
        """Move waiting sequences to the running ones; new tokens of each."""
        admitted: list[int] = []
        joining: list[int] = []
        block = self._state.profile.block_tokens
        while self._waiting and budget and len(self._running) + len(joining) < self._state.profile.max_sequences:
            slot = self._waiting[0]
            held_before = self._state.pool.free
            if not self._state.sequences[slot]["context"]:
                self._state.claim_prefix(slot)
            free -= held_before - self._state.pool.free
            wanted = max(1, int(self._state.sequences[slot]["prompt_left"]))
            blocks = blocks_needed(self._state.sequences, slot, wanted, block)
            if blocks > free:
                break
            tokens = min(budget, wanted)
            free -= blocks_needed(self._state.sequences, slot, tokens, block)
            budget -= tokens
            joining.append(self._waiting.popleft())
            admitted.append(tokens)
        self._running = np.concatenate([self._running, slots(*joining)])
        return admitted


@compiled
def split(sequences: Sequences, running: Slots, chunk: Slots) -> tuple[Slots, Slots, Slots, Slots]:
    """(decodes, their drafts, prefills, their tokens) of the sequences that run."""
    decode, drafts = np.empty(len(running), np.int64), np.empty(len(running), np.int64)
    prefill, tokens = np.empty(len(running), np.int64), np.empty(len(running), np.int64)
    n, m = 0, 0
    for i in range(len(running)):
        if chunk[i] == 0:
            continue
        if sequences[running[i]].prompt_left == 0:
            decode[n], drafts[n] = running[i], chunk[i] - 1
            n += 1
        else:
            prefill[m], tokens[m] = running[i], chunk[i]
            m += 1
    return decode[:n], drafts[:n], prefill[:m], tokens[:m]


@compiled
def serve(
    sequences: Sequences,
    running: Slots,
    chunk: Slots,
    first: int,
    budget: int,
    free: int,
    drafts: int,
    block_tokens: int,
) -> tuple[int, int, int]:
    """Serve running sequences from `first` on, writing `chunk`: (where blocks ran out or the end, budget, blocks)."""
    for i in range(first, len(running)):
        wanted = sequences[running[i]].prompt_left
        if wanted == 0:
            wanted = 1 + drafts
        tokens = min(wanted, budget)
        if tokens == 0:
            continue
        blocks = blocks_needed(sequences, running[i], tokens, block_tokens)
        if blocks > free:
            return i, budget, free
        chunk[i] = tokens
        budget -= tokens
        free -= blocks
    return len(running), budget, free
