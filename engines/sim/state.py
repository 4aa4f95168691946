"""What a simulated replica holds: the sequences on it and their KV blocks. Replica and policies share it."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.engines.messages import PrefixReport, SloArgs
from slosgate.engines.sim.blocks import BlockPool, Parts
from slosgate.planner.compiling import readable
from slosgate.planner.profile import HardwareProfile

SEQUENCE = readable(
    np.dtype(
        [
            ("prompt_left", "i8"),  # tokens still to be computed before the next output token; 0 means it decodes
            ("context", "i8"),  # tokens whose KV is here
            ("generated", "i8"),  # output tokens emitted
            ("thinking", "i8"),  # output tokens after which the pace changes; 0: none
            ("output", "i8"),  # output tokens it will emit in all: only the engine knows
            ("blocks", "i8"),  # KV blocks it holds
            ("acceptance", "f8"),  # chance that a drafted token is accepted
            ("seed", "u8"),  # of its own stream of draft verdicts
            ("gone", "?"),  # cancelled while its iteration runs
        ],
        align=True,
    )
)

HITS_KEPT = 4096

Sequences: TypeAlias = NDArray[np.void]  # one-dimensional, dtype SEQUENCE, indexed by slot
Slots: TypeAlias = NDArray[np.int64]


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a request as an engine receives it. A scheduler may look at all but `output_tokens`."""

    id: str
    prompt_tokens: int  # the whole prompt, cached prefix included
    output_tokens: int  # what it will produce
    max_tokens: int = 0  # what the client allowed; 0: the same as output_tokens
    thinking_tokens: int = 0  # of its output: only the engine knows, and only once they are over
    parts: Parts = ()  # what its context holds, by name: what is here of the prompt's beginning need not be computed
    slo: SloArgs | None = None
    acceptance: float = 0.0
    resident: bool = False  # the prompt's KV arrives with it, and its first token was produced elsewhere

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(f"request {self.id!r} needs a prompt and an output of at least one token")


class EngineState:
    """Sequences in slots, and the pool their blocks come from.

    A slot stays with its sequence until `release`. The array is replaced when it grows: read `sequences` afresh.
    """

    def __init__(
        self,
        profile: HardwareProfile,
        seed: int = 0,
        *,
        looks_ahead: bool = False,
        slowdown: float = 1.0,
        overhead_s: float = 0.0,
    ) -> None:
        self.profile = profile
        self.overhead_s = overhead_s  # from a request's arrival until it can be chosen
        self.coefficients = slowdown * profile.perf.coefficients()  # of how long iterations really take
        self.looks_ahead = looks_ahead  # iterations are chosen while the one before runs
        self.pool = BlockPool(profile.kv_blocks)
        self.sequences: Sequences = np.zeros(64, dtype=SEQUENCE)
        self.requests: list[EngineRequest | None] = [None] * len(self.sequences)
        self.slot_of: dict[str, int] = {}
        self.preemptions = 0
        self.hits: OrderedDict[str, int] = OrderedDict()  # by request: tokens of its prompt that were here
        self.told: dict[str, PrefixReport] = {}  # the same, until it is reported
        self._unused = list(range(len(self.sequences)))[::-1]
        self._writers: dict[Hashable, int] = {}  # by part: the slot that computes it, or did
        self._seed = seed

    def admit(self, request: EngineRequest) -> int:
        """Give a request a slot. Raises ValueError for an id that is here, or a request that can never fit."""
        if request.id in self.slot_of:
            raise ValueError(f"request {request.id!r} is already here")
        total = request.prompt_tokens + request.output_tokens
        if self.profile.blocks_for(total) > self.profile.kv_blocks:
            raise ValueError(f"request {request.id!r} needs {total} tokens of KV, more than the replica has")
        slot = self._free_slot()
        done = request.prompt_tokens if request.resident else 0
        self.sequences[slot] = (
            request.prompt_tokens - done, done, int(request.resident), request.thinking_tokens, request.output_tokens,
            0, request.acceptance, zlib.crc32(request.id.encode()) ^ (self._seed << 32), False,
        )  # fmt: skip
        self.requests[slot] = request
        self.slot_of[request.id] = slot
        for part in request.parts:
            self._writers.setdefault(part.name, slot)
        return slot

    def request(self, slot: int) -> EngineRequest:
        """The request in a slot. Raises KeyError for an empty one."""
        request = self.requests[slot]
        if request is None:
            raise KeyError(f"slot {slot} is empty")
        return request

    def cached(self, request: EngineRequest) -> int:
        """Prompt tokens of the request whose KV is here: whole blocks, and never the whole prompt."""
        if not request.parts:
            return 0
        self._name_what_runs(request.parts)
        block = self.profile.block_tokens
        return min((request.prompt_tokens - 1) // block, self.pool.held(request.parts)) * block

    def claim_prefix(self, slot: int) -> None:
        """Let the sequence in a slot, which must not have run yet, use what is here of its beginning."""
        request = self.request(slot)
        tokens = self.cached(request)
        if tokens:
            sequence = self.sequences[slot]
            sequence["blocks"] = self.pool.claim(slot, request.parts, tokens // self.profile.block_tokens)
            sequence["context"] = tokens
            sequence["prompt_left"] -= tokens
        if not self.sequences[slot]["generated"]:
            self._note_hit(request, tokens)

    def leave_prefix(self, slot: int) -> None:
        """Take back what a sequence claimed that can't run yet: meanwhile it is free for others."""
        sequence = self.sequences[slot]
        if sequence["blocks"]:
            self._leave(slot)
            sequence["prompt_left"] += sequence["context"]
            sequence["context"] = 0

    def preempt(self, slot: int) -> None:
        """Take a sequence's KV blocks away: what it had will be computed again (vLLM's recompute preemption)."""
        self._leave(slot)
        sequence = self.sequences[slot]
        sequence["context"] = 0
        sequence["prompt_left"] = self.request(slot).prompt_tokens + int(sequence["generated"])
        self.preemptions += 1

    def swap_out(self, slot: int) -> None:
        """Move a sequence's KV to the host: it needs blocks for all of its context before it runs again."""
        self._leave(slot)
        self.preemptions += 1

    def release(self, slot: int) -> None:
        """Free a slot and its blocks; their contents stay in the cache until the blocks are needed."""
        request = self.request(slot)
        self._leave(slot)
        for part in request.parts:
            if self._writers.get(part.name) == slot:
                del self._writers[part.name]
        self.requests[slot] = None
        del self.slot_of[request.id]
        self._unused.append(slot)

    def _leave(self, slot: int) -> None:
        sequence, parts = self.sequences[slot], self.request(slot).parts
        self.pool.leave(slot, int(sequence["blocks"]), parts, self._computed_blocks(slot))
        sequence["blocks"] = 0

    def _computed_blocks(self, slot: int) -> int:
        sequence = self.sequences[slot]
        return min(int(sequence["context"]) // self.profile.block_tokens, int(sequence["blocks"]))

    def _name_what_runs(self, parts: Parts) -> None:
        """What running sequences have computed of these parts is there for others."""
        # One sequence mostly writes many of them: asked once, it names them all.
        writers = dict.fromkeys(self._writers.get(part.name) for part in parts)
        for slot in writers:
            if slot is not None:
                self.pool.wrote(slot, self.request(slot).parts, self._computed_blocks(slot))

    def _note_hit(self, request: EngineRequest, tokens: int) -> None:
        self.hits[request.id] = tokens
        self.hits.move_to_end(request.id)
        if len(self.hits) > HITS_KEPT:
            self.hits.popitem(last=False)
        if request.parts and len(self.told) < HITS_KEPT:
            self.told[request.id] = PrefixReport(request.id, request.prompt_tokens, tokens)

    def _free_slot(self) -> int:
        if not self._unused:
            had = len(self.sequences)
            self.sequences = np.concatenate([self.sequences, np.zeros(had, dtype=SEQUENCE)])
            self.requests.extend([None] * had)
            self._unused = list(range(had, 2 * had))[::-1]
        return self._unused.pop()
