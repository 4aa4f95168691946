"""DistServe's two kinds of replica (Zhong et al., OSDI 2024, sections 4 and 5; its FCFS schedulers).

A prefill replica batches whole prompts, first come first served, up to the length that saturates the GPU: larger
batches only make the first of them wait. A decode replica batches continuously, all it has memory for, first come
first served; when no block is left the last running sequence's KV is swapped to the host, and back when there is room.
"""

from __future__ import annotations

from slosgate.engines.sim.policies.fcfs import WATERMARK, FcfsPolicy
from slosgate.engines.sim.policies.vllm_v0 import VllmV0Policy
from slosgate.engines.sim.state import EngineState
from slosgate.engines.sim.steps import SlotBatch, blocks_needed
from slosgate.planner.profile import HardwareProfile

SATURATED = 0.95  # of the best prefill rate: where a GPU counts as saturated (the paper's L_m)


class PrefillPolicy(VllmV0Policy):
    """Requests end here with their first token, so nothing ever decodes."""

    def __init__(self, state: EngineState, *, budget: int | None = None) -> None:
        super().__init__(state, budget=budget or saturating_tokens(state.profile))


class DecodePolicy(FcfsPolicy):
    """Requests come with their prompt's KV. Swapping costs no time here: DistServe overlaps it with computation."""

    def __init__(self, state: EngineState, *, drafts: int = 0) -> None:
        super().__init__(state)
        self._drafts = drafts
        self._watermark = int(WATERMARK * state.profile.kv_blocks)

    def schedule(self, now_s: float) -> SlotBatch:
        waiting = len(self._waiting)
        batch, free = self._all_decodes(self._drafts)
        nobody_evicted = len(self._waiting) == waiting
        if waiting and nobody_evicted and self._admit(free):
            batch, _ = self._all_decodes(self._drafts)
        return batch

    def _admit(self, free: int) -> bool:
        """Move waiting sequences to the running ones; whether there were any."""
        joining: list[int] = []
        profile = self._state.profile
        while self._waiting and len(self._running) + len(joining) < profile.max_sequences:
            slot = self._waiting[0]
            blocks = blocks_needed(self._state.sequences, slot, 1 + self._drafts, profile.block_tokens)
            spare = self._watermark if len(self._running) or joining else 0
            if blocks + spare > free:
                break
            free -= blocks
            joining.append(self._waiting.popleft())
        self._join(joining)
        return bool(joining)

    def _release(self, victim: int) -> None:
        self._state.swap_out(victim)


def saturating_tokens(profile: HardwareProfile) -> int:
    """The least prompt tokens an iteration computes at nearly the best rate, in steps of 64."""
    sizes = range(64, max(64, profile.max_batched_tokens) + 1, 64)
    best = max(size / profile.perf.chunk_s(size) for size in sizes)
    return next(size for size in sizes if size / profile.perf.chunk_s(size) >= SATURATED * best)
