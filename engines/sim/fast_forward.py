"""Many iterations in one compiled call: virtual time while nothing happens but decoding and prefilling.

A policy goes on from the iteration in flight until a time is reached, or until what comes next needs Python: a sequence
that ends, a KV block that is lacking, a choice that finds nothing to run. The result is the same as that of single
steps, token by token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.engines.messages import IterationReport
from slosgate.engines.sim.state import Sequences, Slots
from slosgate.engines.sim.steps import SlotBatch, accepted, blocks_needed
from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import Floats, Load, iteration_s


class TokenLog(NamedTuple):
    """Where the times of tokens go: each slot's next one to `token_s[cursor[slot]]`."""

    token_s: Floats
    cursor: Slots


class Engine(NamedTuple):
    """The simulated engine: its sequences, its free memory and its speed."""

    sequences: Sequences
    free_blocks: int
    block_tokens: int
    coef: Floats


class InFlight(NamedTuple):
    """An iteration in flight, or one that has just ended."""

    batch: SlotBatch
    start_s: float
    end_s: float
    load: Load
    prompt_tokens: int
    ended: bool = False

    @property
    def report(self) -> IterationReport:
        """What it computes, and how long that takes."""
        load = self.load
        return IterationReport(
            self.end_s - self.start_s, load.new, load.context, load.sequences, load.drafts, load.pairs
        )


class Totals(NamedTuple):
    """What the iterations did that ended meanwhile."""

    iterations: int
    busy_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: int  # KV blocks taken, those of the iteration in flight included


@compiled
def repeat(engine: Engine, flight: InFlight, until_s: float, log: TokenLog, pause_s: float) -> tuple[Totals, InFlight]:
    """Carry out a decode iteration in flight and start it again, as long as it ends before `until_s`.

    Between two of them `pause_s` passes. Also returns the iteration that is then in flight.
    """
    sequences, batch, load = engine.sequences, flight.batch, flight.load
    decode, drafts = batch.decode, batch.drafts
    emitted = np.empty(len(decode), np.int64)
    start_s, end_s = flight.start_s, flight.end_s
    rounds, total, taken, busy_s = 0, 0, 0, 0.0
    while end_s < until_s and not ends(sequences, batch, emitted):
        needed, wider = next_step(sequences, batch, emitted, engine.block_tokens)
        if taken + needed > engine.free_blocks:
            break
        total += advance(sequences, batch, emitted, end_s, log)
        for i in range(len(decode)):
            needs = blocks_needed(sequences, decode[i], drafts[i] + 1, engine.block_tokens)
            sequences[decode[i]].blocks += needs
        rounds, taken, load, busy_s = rounds + 1, taken + needed, wider, busy_s + end_s - start_s
        start_s = end_s + pause_s
        end_s = start_s + iteration_s(
            engine.coef, load.new, load.context, load.sequences, load.drafts, load.pairs
        )  # fmt: skip
    return Totals(rounds, busy_s, 0, total, taken), InFlight(batch, start_s, end_s, load, 0, False)


@compiled
def next_step(sequences: Sequences, batch: SlotBatch, emitted: Slots, block_tokens: int) -> tuple[int, Load]:
    """(KV blocks, load) of one more decode step after each of the decodes has emitted so much."""
    decode, drafts = batch.decode, batch.drafts
    needed, new, context, steps = 0, 0, 0, 0
    for i in range(len(decode)):
        wanted = drafts[i] + 1
        needed += blocks_needed(sequences, decode[i], emitted[i] + wanted, block_tokens)
        new += wanted
        context += sequences[decode[i]].context + emitted[i] + wanted
        steps = max(steps, drafts[i])
    return needed, Load(new, context, len(decode), steps, 0.0)


@compiled
def ends(sequences: Sequences, batch: SlotBatch, emitted: Slots) -> bool:
    """Whether a sequence ends with this iteration, or its thinking does; if not, `emitted` says what each emits."""
    decode, drafts, prefill, tokens, _ = batch
    for i in range(len(decode)):
        s = sequences[decode[i]]
        emitted[i] = 1 + accepted(s, drafts[i])
        if s.generated + emitted[i] >= s.output or s.generated < s.thinking <= s.generated + emitted[i]:
            return True
    for i in range(len(prefill)):
        s = sequences[prefill[i]]
        emitted[len(decode) + i] = s.prompt_left == tokens[i]
        if emitted[len(decode) + i] and (s.generated + 1 >= s.output or s.thinking == s.generated + 1):
            return True
    return False


@compiled
def advance(sequences: Sequences, batch: SlotBatch, emitted: Slots, end_s: float, log: TokenLog) -> int:
    """Carry out an iteration in which no sequence ends; its output tokens."""
    decode, _, prefill, tokens, _ = batch
    token_s, cursor = log
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
