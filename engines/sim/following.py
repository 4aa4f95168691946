"""The slack rule carried out iteration after iteration in one compiled call (see `fast_forward`)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.engines.sim.acceptance import count
from slosgate.engines.sim.fast_forward import Engine, InFlight, TokenLog, Totals, advance, ends
from slosgate.engines.sim.state import Slots
from slosgate.engines.sim.steps import SlotBatch, place
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import gain
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Floats, load_s
from slosgate.planner.launching import CAPTURED, begins_s, kind_of
from slosgate.planner.machine import Delays, Machine, launching_within
from slosgate.planner.memory import growth
from slosgate.planner.slack import choose


class Table(NamedTuple):
    """The follower's table, and which row of it is which slot of the engine."""

    jobs: Jobs
    slot_of_row: Slots
    row_of_slot: Slots


class Rule(NamedTuple):
    """What the slack rule goes by."""

    machine: Machine
    patience_s: Floats  # of the latest arrivals, ascending
    delays: Delays
    planned: Delays  # what the planner takes for them
    captured_tokens: int  # of the engine itself
    looks_ahead: bool  # whether an iteration is chosen while the one before runs
    by_kind: bool  # whether it is known how long launching takes, by kind of iteration


class Drafting(NamedTuple):
    """How drafts have fared, by SLO class."""

    counts: Floats
    class_of_slot: Slots


@compiled
def follow(
    engine: Engine, table: Table, rule: Rule, flight: InFlight, until_s: float, log: TokenLog, drafting: Drafting
) -> tuple[Totals, InFlight]:
    """Carry out the iteration in flight and those chosen after it, while they end before `until_s`.

    What follows on the iteration in flight is chosen before its expected end (`planner.arrivals`), or after its end.
    Also returns the last iteration. That has ended when the next choice needs Python: a block is lacking, or nothing
    runs.
    """
    coef, batch, load = rule.machine.coef, flight.batch, flight.load
    start_s, end_s, prompt = flight.start_s, flight.end_s, flight.prompt_tokens
    expected_end_s = start_s + load_s(coef, load)
    rounds, prompts, outputs, taken, busy_s, ended = 0, 0, 0, 0, 0.0, False
    emitted = np.empty(len(batch.decode) + len(batch.prefill), np.int64)
    while end_s < until_s and not ends(engine.sequences, batch, emitted):
        outputs += advance(engine.sequences, batch, emitted, end_s, log)
        progress(table, batch, emitted, end_s)
        count(drafting.counts, drafting.class_of_slot, batch.decode, batch.drafts, emitted, batch.prefill[:0])
        rounds, prompts, busy_s = rounds + 1, prompts + prompt, busy_s + end_s - start_s
        left = engine.free_blocks - taken
        ended = growth(table.jobs, engine.block_tokens) > left
        if ended:
            break
        chosen_s, free_s, busy_for_s = end_s, end_s + rule.delays.decide_s, 0.0
        if rule.looks_ahead:
            chosen_s = expected_end_s - rule.delays.lead_s[foreseen(table.jobs, rule, expected_end_s, left)]
            free_s = max(end_s, chosen_s + rule.delays.decide_s)
            chosen_s = max(start_s, chosen_s)
            busy_for_s = expected_end_s - chosen_s
        machine = launching_within(rule.machine, rule.planned, busy_for_s, len(table.jobs))
        chosen = choose(table.jobs, machine, free_s, left, rule.patience_s)
        wanted = SlotBatch(
            table.slot_of_row[chosen.decode], chosen.drafts, table.slot_of_row[chosen.prefill], chosen.tokens, False
        )
        kind = kind_of(wanted.decode, wanted.drafts, wanted.tokens, rule.captured_tokens)
        placed = place(engine.sequences, wanted, left, engine.block_tokens, engine.coef)
        ended = placed.load.new == 0
        if ended:
            break
        n, m = placed.decodes, placed.prefills
        batch = SlotBatch(wanted.decode[:n], wanted.drafts[:n], wanted.prefill[:m], wanted.tokens[:m], False)
        emitted = np.empty(n + m, np.int64)
        load, prompt, taken = placed.load, placed.prompt_tokens, taken + placed.blocks
        start_s = begins_s(free_s, chosen_s, rule.delays.launch_s[kind], placed.duration_s)
        end_s, expected_end_s = start_s + placed.duration_s, start_s + load_s(coef, load)
    return Totals(rounds, busy_s, prompts, outputs, taken), InFlight(batch, start_s, end_s, load, prompt, ended)


@compiled
def foreseen(jobs: Jobs, rule: Rule, start_s: float, free_blocks: int) -> int:
    """The kind of iteration that would start then."""
    if not rule.by_kind:
        return CAPTURED
    batch = choose(jobs, rule.machine, start_s, free_blocks, rule.patience_s)
    return max(CAPTURED, kind_of(batch.decode, batch.drafts, batch.tokens, rule.machine.sizes.captured_tokens))


@compiled
def progress(table: Table, batch: SlotBatch, emitted: Slots, end_s: float) -> None:
    """Write an iteration into the planner's table."""
    jobs, _, row_of_slot = table
    decode, _, prefill, tokens, _ = batch
    for i in range(len(decode)):
        gain(jobs[row_of_slot[decode[i]]], emitted[i], 0, emitted[i], end_s)
    for i in range(len(prefill)):
        gain(jobs[row_of_slot[prefill[i]]], tokens[i], tokens[i], emitted[len(decode) + i], end_s)
