"""vLLM V0 as it schedules by default (vllm/core/scheduler.py, 0.2 to 0.8, `_schedule_default`): prefill first.

While anything waits and fits, an iteration prefills whole prompts, first come first served, as many as the token
budget and the KV blocks hold, and nothing decodes. Otherwise all running sequences decode. When no block is left the
last running sequence is preempted, to be computed again.
"""

from __future__ import annotations

from slosgate.engines.sim.policies.base import slots
from slosgate.engines.sim.policies.fcfs import WATERMARK, FcfsPolicy
from slosgate.engines.sim.state import EngineState
from slosgate.engines.sim.steps import SlotBatch, blocks_needed


class VllmV0Policy(FcfsPolicy):
    """`budget`: prompt tokens an iteration may batch, by default the profile's; a longer prompt runs alone.

    `drafts` is a fixed speculation length.
    """

    def __init__(self, state: EngineState, *, budget: int | None = None, drafts: int = 0) -> None:
        super().__init__(state)
        self._budget = budget or state.profile.max_batched_tokens
        self._drafts = drafts
        self._watermark = int(WATERMARK * state.profile.kv_blocks)

    def schedule(self, now_s: float) -> SlotBatch:
        prefill = self._admit() if self._waiting else []
        if prefill:
            lengths = self._state.sequences["prompt_left"][prefill]
            return SlotBatch(slots(), slots(), slots(*prefill), lengths)
        return self._all_decodes(self._drafts)[0]

    def _admit(self) -> list[int]:
        """Move to the running sequences what this iteration prefills."""
        joining: list[int] = []
        profile, budget = self._state.profile, self._budget
        free = self._state.pool.free
        while self._waiting and len(self._running) + len(joining) < profile.max_sequences:
            slot = self._waiting[0]
            free = self._find_prefix(slot, free)
            prompt = int(self._state.sequences[slot]["prompt_left"])
            blocks = blocks_needed(self._state.sequences, slot, prompt, profile.block_tokens)
            # Kept free for decodes, but not from a sequence that has the replica to itself.
            spare = self._watermark if len(self._running) or joining else 0
            if blocks + spare > free or (joining and prompt > budget):
                self._state.leave_prefix(slot)
                break
            free -= blocks
            budget -= prompt
            joining.append(self._waiting.popleft())
        self._join(joining)
        return joining
