"""Sarathi-Serve: stall-free batching with chunked prefills (Agrawal et al., OSDI 2024, section 4 and algorithm 3).

Every iteration has a token budget. All running decodes go first, one token each; then prefills that have begun, then
new ones, first come first served, each with as large a chunk as the budget has left. A prompt is admitted when KV
blocks for all of it are free, and they are its from then on. When no block is left the last running sequence is
preempted, to be computed again. The budget is what the authors tune: large for throughput, small for a tight TPOT.
"""

from __future__ import annotations

import numpy as np

from slosgate.engines.sim.policies.base import slots
from slosgate.engines.sim.policies.fcfs import WATERMARK, FcfsPolicy
from slosgate.engines.sim.state import EngineState, Sequences, Slots
from slosgate.engines.sim.steps import SlotBatch, blocks_needed
from slosgate.planner.compiling import compiled

BUDGET = 512  # the paper's for tight SLOs; 2048 for relaxed ones


class SarathiPolicy(FcfsPolicy):
    """`budget`: tokens an iteration may compute; `drafts`: a fixed speculation length, whose tokens count too."""

    def __init__(self, state: EngineState, *, budget: int | None = None, drafts: int = 0) -> None:
        super().__init__(state)
        self._budget = budget or BUDGET
        self._drafts = drafts
        self._watermark = int(WATERMARK * state.profile.kv_blocks)
        self._prefilling = False  # whether some running sequence has prompt left: most iterations skip that search

    def schedule(self, now_s: float) -> SlotBatch:
        batch, free = self._all_decodes(self._drafts)
        budget = self._budget - len(batch.decode) * (1 + self._drafts)
        prefill, tokens = slots(), slots()
        if self._prefilling:
            prefill, tokens = chunks(self._state.sequences, self._running, budget)
            budget -= int(tokens.sum())
        if budget > 0 and self._waiting:
            joining, lengths = self._admit(budget, free)
            prefill, tokens = np.concatenate([prefill, slots(*joining)]), np.concatenate([tokens, slots(*lengths)])
        self._prefilling = self._prefilling or bool(len(prefill))
        if not self._prefilling:
            return batch
        self._prefilling = bool(len(prefill))
        return SlotBatch(batch.decode, batch.drafts, prefill, tokens)

    def _reserved(self) -> int:
        """KV blocks that running prefills have been promised and not yet taken."""
        if not self._prefilling:
            return 0
        return reserved(self._state.sequences, self._running, self._state.profile.block_tokens)

    def _admit(self, budget: int, free: int) -> tuple[list[int], list[int]]:
        """Move waiting sequences to the running ones: which, and the first chunk of each."""
        joining: list[int] = []
        lengths: list[int] = []
        profile = self._state.profile
        while self._waiting and budget > 0 and len(self._running) + len(joining) < profile.max_sequences:
            slot = self._waiting[0]
            free = self._find_prefix(slot, free)
            prompt = int(self._state.sequences[slot]["prompt_left"])
            blocks = blocks_needed(self._state.sequences, slot, prompt, profile.block_tokens)
            spare = self._watermark if len(self._running) or joining else 0
            if blocks + spare > free:
                self._state.leave_prefix(slot)
                break
            free -= blocks
            lengths.append(min(prompt, budget))
            budget -= lengths[-1]
            joining.append(self._waiting.popleft())
        self._join(joining)
        return joining, lengths


@compiled
def chunks(sequences: Sequences, running: Slots, budget: int) -> tuple[Slots, Slots]:
    """The running prefills that the budget reaches, and the tokens of each."""
    prefill, tokens, n = np.empty(len(running), np.int64), np.empty(len(running), np.int64), 0
    for i in range(len(running)):
        take = min(sequences[running[i]].prompt_left, budget)
        if take > 0:
            prefill[n], tokens[n] = running[i], take
            budget -= take
            n += 1
    return prefill[:n], tokens[:n]


@compiled
def reserved(sequences: Sequences, running: Slots, block_tokens: int) -> int:
    """Blocks that the rest of every running prompt will take."""
    blocks = 0
    for i in range(len(running)):
        left = sequences[running[i]].prompt_left
        if left > 0:
            blocks += blocks_needed(sequences, running[i], left, block_tokens)
    return blocks
