"""vLLM V1 as it schedules by default (vllm/v1/core/sched/scheduler.py, 0.25.1).

One token budget for decodes and prefills alike. Running sequences come first, in the order they were admitted; each
takes what it lacks, a prefill maybe only a part. When no KV block is left the last running sequence is preempted, to
be computed again. Then waiting sequences are admitted, first come first served, while budget, blocks for the whole
prompt and sequences last; not in an iteration that preempted.
"""

from __future__ import annotations

import numpy as np

from slosgate.engines.sim.policies.base import slots
from slosgate.engines.sim.policies.fcfs import FcfsPolicy
from slosgate.engines.sim.state import EngineState, Sequences, Slots
from slosgate.engines.sim.steps import SlotBatch, blocks_needed
from slosgate.planner.compiling import compiled


class VllmPolicy(FcfsPolicy):
    """`budget` overrides the profile's max_batched_tokens; `drafts` is a fixed speculation length."""

    def __init__(self, state: EngineState, *, budget: int | None = None, drafts: int = 0) -> None:
        super().__init__(state)
        self._budget = budget or state.profile.max_batched_tokens
        self._drafts = drafts

    def schedule(self, now_s: float) -> SlotBatch:
        batch, budget, free, preempted = self._serve_running()
        if preempted or budget <= 0 or not self._waiting:
            return batch
        joining, lengths = self._admit(budget, free)
        if not joining:
            return batch
        return SlotBatch(
            batch.decode,
            batch.drafts,
            np.concatenate([batch.prefill, slots(*joining)]),
            np.concatenate([batch.tokens, slots(*lengths)]),
        )

    def _serve_running(self) -> tuple[SlotBatch, int, int, bool]:
        """(the running sequences' part of the iteration, budget left, blocks left, whether one was preempted)."""
        preempted = False
        while True:
            done, budget, free, *batch = serve(
                self._state.sequences,
                self._running,
                self._budget,
                self._state.pool.free,
                self._drafts,
                self._state.profile.block_tokens,
            )
            if done:
                decode, drafts, prefill, tokens = batch
                repeats = not (preempted or len(prefill))
                return SlotBatch(decode, drafts, prefill, tokens, repeats), budget, free, preempted
            self._evict_last()
            preempted = True

    def _admit(self, budget: int, free: int) -> tuple[list[int], list[int]]:
        """Move waiting sequences to the running ones: which, and new tokens of each."""
        joining: list[int] = []
        lengths: list[int] = []
        block = self._state.profile.block_tokens
        while self._waiting and budget and len(self._running) + len(joining) < self._state.profile.max_sequences:
            slot = self._waiting[0]
            free = self._find_prefix(slot, free)
            wanted = max(1, int(self._state.sequences[slot]["prompt_left"]))
            if blocks_needed(self._state.sequences, slot, wanted, block) > free:
                self._state.leave_prefix(slot)
                break
            tokens = min(budget, wanted)
            free -= blocks_needed(self._state.sequences, slot, tokens, block)
            budget -= tokens
            joining.append(self._waiting.popleft())
            lengths.append(tokens)
        self._join(joining)
        return joining, lengths


@compiled
def serve(
    sequences: Sequences, running: Slots, budget: int, free: int, drafts: int, block_tokens: int
) -> tuple[bool, int, int, Slots, Slots, Slots, Slots]:
    """Serve the running sequences: (False if blocks ran out, budget left, blocks left, decodes, their drafts,
    prefills, their tokens)."""
    decode, lengths, n = np.empty(len(running), np.int64), np.empty(len(running), np.int64), 0
    prefill, tokens, m = np.empty(len(running), np.int64), np.empty(len(running), np.int64), 0
    for i in range(len(running)):
        left = sequences[running[i]].prompt_left
        take = min(left if left > 0 else 1 + drafts, budget)
        if take == 0:
            continue
        blocks = blocks_needed(sequences, running[i], take, block_tokens)
        if blocks > free:
            return False, budget, free, decode[:0], lengths[:0], prefill[:0], tokens[:0]
        budget -= take
        free -= blocks
        if left > 0:
            prefill[m], tokens[m] = running[i], take
            m += 1
        else:
            decode[n], lengths[n] = running[i], take - 1
            n += 1
    return True, budget, free, decode[:n], lengths[:n], prefill[:m], tokens[:m]
