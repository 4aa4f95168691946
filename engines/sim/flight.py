"""Many iterations in one compiled call: virtual time while nothing happens but decoding and prefilling.

A policy flies on from the iteration in flight until a time is reached, or until what comes next needs Python: a
sequence that ends, a KV block that is lacking, a choice that finds nothing to run. The result is the same as that of
single steps, token by token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slosgate.engines.messages import IterationReport
from slosgate.engines.sim.state import Sequences, Slots
from slosgate.engines.sim.steps import accepted, blocks_needed
from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import iteration_s

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TokenLog:
    """Where the times of tokens go: each slot's next one to `token_s[cursor[slot]]`."""

    token_s: Floats
    cursor: Slots


@dataclass(frozen=True, slots=True)
class Totals:
    """What the iterations that ended in a flight did."""

    iterations: int
    busy_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: int  # KV blocks taken, those of the iteration in flight included


@dataclass(frozen=True, slots=True)
class Leg:
    """The last iteration of a flight: still in flight, or just ended. Slots as in a SlotBatch."""

    arrays: tuple[Slots, Slots, Slots, Slots]
    start_s: float
    end_s: float
    report: IterationReport
    prompt_tokens: int
    ended: bool


@compiled
def repeat(
    sequences: Sequences, decode: Slots, drafts: Slots, free: int, block_tokens: int, coef: Floats, start_s: float,
    end_s: float, until_s: float, token_s: Floats, cursor: Slots, pause_s: float,
) -> tuple[int, int, int, int, int, float, float, float]:  # fmt: skip
    """Carry out a decode iteration in flight and start it again, as long as it ends before `until_s`.

    Between two of them `pause_s` passes.

    Returns how many were carried out, their output tokens, blocks taken, new and context tokens of the one in flight,
    its start and end, and the time the others took.
    """
    emitted = np.empty(len(decode), np.int64)
    nobody = np.empty(0, np.int64)
    rounds, total, taken, new, context, busy_s = 0, 0, 0, 0, 0, 0.0
    while end_s < until_s and not ends(sequences, decode, drafts, nobody, nobody, emitted):
        needed, tokens, attended, steps = 0, 0, 0, 0
        for i in range(len(decode)):
            wanted = drafts[i] + 1
            needed += blocks_needed(sequences, decode[i], emitted[i] + wanted, block_tokens)
            tokens += wanted
            attended += sequences[decode[i]].context + emitted[i] + wanted
            steps = max(steps, drafts[i])
        if taken + needed > free:
            break
        total += advance(sequences, decode, nobody, nobody, emitted, end_s, token_s, cursor)
        for i in range(len(decode)):
            sequences[decode[i]].blocks += blocks_needed(sequences, decode[i], drafts[i] + 1, block_tokens)
        rounds, taken, new, context, busy_s = rounds + 1, taken + needed, tokens, attended, busy_s + end_s - start_s
        start_s = end_s + pause_s
        end_s = start_s + iteration_s(coef, new, context, len(decode), steps)
    return rounds, total, taken, new, context, start_s, end_s, busy_s


@compiled
def ends(sequences: Sequences, decode: Slots, drafts: Slots, prefill: Slots, tokens: Slots, emitted: Slots) -> bool:
    """Whether a sequence ends with this iteration; if not, `emitted` says what each emits."""
    for i in range(len(decode)):
        s = sequences[decode[i]]
        emitted[i] = 1 + accepted(s, drafts[i])
        if s.generated + emitted[i] >= s.output:
            return True
    for i in range(len(prefill)):
        s = sequences[prefill[i]]
        emitted[len(decode) + i] = s.prompt_left == tokens[i]
        if emitted[len(decode) + i] and s.generated + 1 >= s.output:
            return True
    return False


@compiled
def advance(
    sequences: Sequences, decode: Slots, prefill: Slots, tokens: Slots, emitted: Slots, end_s: float, token_s: Floats,
    cursor: Slots,
) -> int:  # fmt: skip
    """Carry out an iteration in which nobody ends; its output tokens."""
    total = 0
    for i in range(len(emitted)):
        slot = decode[i] if i < len(decode) else prefill[i - len(decode)]
        s = sequences[slot]
        if i < len(decode):
            s.context += emitted[i]
        else:
            s.context += tokens[i - len(decode)]
            s.prompt_left -= tokens[i - len(decode)]
        s.generated += emitted[i]
        total += emitted[i]
        for _ in range(emitted[i]):
            token_s[cursor[slot]] = end_s
            cursor[slot] += 1
    return total
