"""The compiled inner loops of a simulated replica: fit a batch into memory, and carry it out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from slosgate.engines.sim.state import Sequences, Slots
from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import Floats, Load, iteration_s, with_chunk, with_decode


@compiled
def blocks_needed(sequences: Sequences, slot: int, new_tokens: int, block_tokens: int) -> int:
    """Blocks that a sequence lacks for `new_tokens` more tokens of context."""
    held = sequences[slot].blocks
    return int(max(0, -(-(sequences[slot].context + new_tokens) // block_tokens) - held))


class SlotBatch(NamedTuple):
    """One iteration, by slots of the engine's state. The arrays are the replica's to write to.

    `repeats` promises the same decodes again, until a request arrives or ends or a KV block is lacking.
    """

    decode: Slots
    drafts: Slots  # draft tokens of each decode
    prefill: Slots
    tokens: Slots  # prompt tokens of each prefill
    repeats: bool = False

    def first(self, decodes: int, prefills: int) -> SlotBatch:
        """So many of its decodes and prefills."""
        if decodes == len(self.decode) and prefills == len(self.prefill):
            return self
        return SlotBatch(self.decode[:decodes], self.drafts[:decodes], self.prefill[:prefills], self.tokens[:prefills])


class Placed(NamedTuple):
    """What of a batch found room."""

    decodes: int
    prefills: int
    blocks: int  # KV blocks taken
    prompt_tokens: int
    load: Load
    duration_s: float  # as modelled


@compiled
def place(sequences: Sequences, batch: SlotBatch, free: int, block_tokens: int, coef: Floats) -> Placed:
    """Give each row its blocks, decodes first, and drop the rows that find none left.

    What is left moves to the front of the batch's arrays.
    """
    decode, drafts, prefill, tokens = batch.decode, batch.drafts, batch.prefill, batch.tokens
    load, taken, prompt, n, m = Load(0, 0, 0, 0, 0.0), 0, 0, 0, 0
    for i in range(len(decode)):
        slot, wanted = decode[i], drafts[i] + 1
        blocks = blocks_needed(sequences, slot, wanted, block_tokens)
        if taken + blocks > free:
            continue
        taken += blocks
        sequences[slot].blocks += blocks
        load = with_decode(load, sequences[slot], drafts[i])
        decode[n], drafts[n] = slot, drafts[i]
        n += 1
    for i in range(len(prefill)):
        slot, wanted = prefill[i], min(tokens[i], sequences[prefill[i]].prompt_left)
        blocks = blocks_needed(sequences, slot, wanted, block_tokens)
        if wanted <= 0 or taken + blocks > free:
            continue
        taken += blocks
        sequences[slot].blocks += blocks
        load = with_chunk(load, sequences[slot].context, wanted)
        prompt += wanted
        prefill[m], tokens[m] = slot, wanted
        m += 1
    duration_s = iteration_s(coef, load.new, load.context, load.sequences, load.drafts, load.pairs)
    return Placed(n, m, taken, prompt, load, duration_s)


@compiled
def verdict(seed: int, position: int) -> float:
    """A number in [0, 1) for one token of one sequence: the same whatever batch the token is drafted in."""
    z = np.uint64(seed) + np.uint64(position + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return float((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 9007199254740992.0


@compiled
def accepted_from(s: Any, generated: int, drafts: int) -> int:
    """Of the drafts behind so many output tokens those that are accepted: all before the first that is rejected."""
    n = 0
    while n < drafts and verdict(s.seed, generated + n) < s.acceptance:
        n += 1
    return n


@compiled
def accepted(s: Any, drafts: int) -> int:
    """How many of a sequence's next drafts are accepted."""
    return accepted_from(s, s.generated, drafts)


@compiled
def carry_out(sequences: Sequences, batch: SlotBatch) -> tuple[Slots, Slots, Slots, int]:
    """Advance every sequence of an iteration; (slots, output tokens of each, slots that are done, output tokens).

    A decode emits one token and the drafts accepted before the first rejection; a prefill emits when its prompt is
    complete. Cancelled sequences neither move nor emit.
    """
    decode, drafts, prefill, tokens, _ = batch
    slots = np.concatenate((decode, prefill))
    emitted = np.zeros(len(slots), np.int64)
    done = np.empty(len(slots), np.int64)
    finished, total = 0, 0
    for i in range(len(slots)):
        s = sequences[slots[i]]
        if s.gone:
            continue
        if i < len(decode):
            emitted[i] = min(1 + accepted(s, drafts[i]), s.output - s.generated)
            s.context += emitted[i]
        else:
            computed = tokens[i - len(decode)]
            s.prompt_left -= computed
            s.context += computed
            emitted[i] = s.prompt_left == 0
        s.generated += emitted[i]
        total += emitted[i]
        if emitted[i] > 0 and s.generated >= s.output:
            done[finished] = slots[i]
            finished += 1
    return slots, emitted, done[:finished], total
