"""The slack rule: what one replica runs in its next iteration.

    step   D = T(decodes due within one period of the tightest tier and the iteration before it)
    slack  S = min over decodes with a live SLO of (due_i - now - T(the first i by due time)), and due_1 - now - D
    urgent prefills that can all end within S: a prefill-only iteration, earliest deadline first, tau <= S, and tau <=
        the first deadline in it;
    else a decode iteration, filled up with prefill tokens: B(tau) - n, tau <= the tightest due time. It carries the
        decodes due before the end of the next one like it, 2 (D + tau_d): what is left for later can then wait for a
        full iteration, instead of cutting one short or running alone, as T(decodes, prefill) < T(decodes) + T(prefill).

Which prefills are urgent is `planner.urgency`'s choice, which may start `planner.starting`'s. An iteration can't be
interrupted. So tau never exceeds what a pending deadline leaves, nor, for requests that arrive next, what
`planner.pacing` makes of the time that such an iteration loses: tau_p without decodes, D + tau_d with them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.arrivals import NO_ARRIVALS
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import first_due_s, first_token_open, next_due_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import (
    Floats,
    Ints,
    Load,
    blocks_for,
    load_s,
    tier_s,
    token_budget,
    with_chunk,
    with_decode,
)
from slosgate.planner.launching import goes_just_beyond
from slosgate.planner.machine import Machine, delays_of, launching_within, machine_of
from slosgate.planner.memory import grows, growth, memory_share
from slosgate.planner.pacing import balanced_s, constant_s, steepest_term
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.speculation import best_drafts, draft_length, mean_acceptance, with_drafts
from slosgate.planner.starting import startable
from slosgate.planner.urgency import Pace, most_in_time, prompts_s, stretch_of

COALESCE = 0.8  # of the tightest period: how long a decode step may be made by waiting for each other
ROOMY = 0.3  # below this share of the KV memory, drafts need not hurry decodes out of it


class Decodes(NamedTuple):
    """Jobs that decode, by due time."""

    rows: Ints
    due_s: Floats  # of the next token; inf where nothing can be won


def next_batch(
    jobs: Jobs,
    profile: HardwareProfile,
    now_s: float,
    free_blocks: int,
    patience_s: Floats = NO_ARRIVALS,
    within_s: float = np.inf,
) -> Batch:
    """What to run now. Empty only when no job may run: all held, or no free block for any of them.

    `patience_s` is that of the latest arrivals, ascending; `within_s` how much longer the device is busy.
    """
    machine = launching_within(machine_of(profile), delays_of(profile), within_s, len(jobs))
    return choose(jobs, machine, now_s, free_blocks, patience_s)


@compiled
def choose(jobs: Jobs, machine: Machine, now_s: float, free_blocks: int, patience_s: Floats) -> Batch:
    """The rule, on rows."""
    coef = machine.coef
    decodes, prefill = split(jobs, now_s)
    due, count = decodes.due_s, len(decodes.rows)
    if len(prefill) == 0 and machine.max_drafts == 0 and count <= min(machine.max_tokens, free_blocks):
        # Mostly, all that runs are decodes which can all be done before the first of them is due: nothing is to weigh.
        duration_s = load_s(coef, step_load(jobs, decodes, np.inf))
        if count and duration_s <= due[0] - now_s:
            return Batch(decodes.rows, np.zeros_like(decodes.rows), prefill, prefill, duration_s)
    period = period_s(jobs, decodes)
    cap_s = balanced_s(coef, patience_s, constant_s(coef, steepest_term(coef)))
    step = step_load(jobs, decodes, now_s + period + min(cap_s, period) if period < np.inf else np.inf)
    drafts = drafts_for(jobs, decodes, prefill, machine, step, period, now_s, free_blocks)
    step_s = load_s(coef, with_drafts(step, drafts))
    together_s = min(step_s, COALESCE * period)
    slack_s = slack_of(jobs, decodes, np.full(count, -1), coef, now_s)
    if count:
        slack_s = min(slack_s, due[0] - now_s - together_s)
    pace = Pace(slack_s, step_s, stretch_of(coef, period, step), cap_s)
    chosen, cap_s = most_in_time(jobs, prefill, coef, now_s, pace)
    order, n_urgent = startable(jobs, prefill, chosen, machine, free_blocks, now_s)
    if n_urgent and (count == 0 or prompts_s(jobs, order[:n_urgent], coef, cap_s) <= slack_s):
        spare = free_blocks - growth(jobs, machine.block_tokens)
        load, taken = filled(jobs, order, machine, now_s, min(slack_s, cap_s), Load(0, 0, 0, 0, 0.0), spare)
        if load.new > 0:
            return Batch(order[:0], order[:0], order[taken > 0], taken[taken > 0], load_s(coef, load))
    beside_s = balanced_s(coef, patience_s, step_s)
    until_s = now_s + max(step_s + period, 2.0 * (step_s + beside_s)) if n_urgent else np.inf
    tau_s = max(due[0] - now_s, together_s) if count else np.inf
    lengths, load, free_blocks = due_now(jobs, decodes, machine, now_s, until_s, tau_s, drafts, free_blocks)
    runs = lengths >= 0
    tau_s = slack_of(jobs, decodes, lengths, coef, now_s)
    for i in range(count):
        if runs[i]:
            tau_s = min(tau_s, due[i] - now_s)
    tau_s = min(tau_s, load_s(coef, load) + beside_s)
    tau_s = max(tau_s, load_s(coef, load))
    load, taken = filled(jobs, order, machine, now_s, tau_s, load, free_blocks)
    return Batch(decodes.rows[runs], lengths[runs], order[taken > 0], taken[taken > 0], load_s(coef, load))


@compiled
def split(jobs: Jobs, now_s: float) -> tuple[Decodes, Ints]:
    """(jobs that decode, rows that prefill by deadline)."""
    decode = np.empty(len(jobs), np.int64)
    due = np.empty(len(jobs), np.float64)
    prefill = np.empty(len(jobs), np.int64)
    deadline = np.empty(len(jobs), np.float64)
    n, m = 0, 0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.held:
            continue
        if job.prompt_left > 0:
            prefill[m] = row
            deadline[m] = job.deadline_s
            m += 1
        else:
            decode[n] = row
            due[n] = next_due_s(job, now_s)
            n += 1
    order = np.argsort(due[:n], kind="mergesort")
    return Decodes(decode[:n][order], due[:n][order]), prefill[:m][np.argsort(deadline[:m], kind="mergesort")]


@compiled
def period_s(jobs: Jobs, decodes: Decodes) -> float:
    """The tightest tier among the decodes whose SLO is live."""
    tightest = np.inf
    for i in range(len(decodes.rows)):
        if decodes.due_s[i] < np.inf:
            tightest = min(tightest, tier_s(jobs[decodes.rows[i]]))
    return tightest


@compiled
def step_load(jobs: Jobs, decodes: Decodes, until_s: float) -> Load:
    """A decode step over the rows due by `until_s`, without drafts."""
    load = Load(0, 0, 0, 0, 0.0)
    for i in range(len(decodes.rows)):
        if decodes.due_s[i] <= until_s:
            load = with_decode(load, jobs[decodes.rows[i]], 0)
    return load


@compiled
def drafts_for(
    jobs: Jobs, decodes: Decodes, prefill: Ints, machine: Machine, step: Load, period: float, now_s: float,
    free_blocks: int,
) -> int:  # fmt: skip
    """Draft tokens for a decode step, or for all that decode where nothing is due."""
    carried = 0
    if memory_share(jobs, machine.block_tokens, free_blocks) < ROOMY:
        carried = carried_tokens(jobs, prefill, machine.coef, period, step, now_s)
    together = step if step.sequences else step_load(jobs, decodes, np.inf)
    return best_drafts(machine.coef, together, mean_acceptance(jobs, decodes.rows), machine.max_drafts, carried)


@compiled
def carried_tokens(jobs: Jobs, prefill: Ints, coef: Floats, period: float, step: Load, now_s: float) -> int:
    """Prompt tokens with a live deadline that a decode step within one period could carry."""
    if step.sequences == 0 or period == np.inf:
        return 0
    room = int(token_budget(coef, period, step.new, step.context, step.sequences, 0.0))
    waiting = 0
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        if first_token_open(job, now_s):
            waiting += job.prompt_left
    return max(0, min(room, waiting))


@compiled
def slack_of(jobs: Jobs, decodes: Decodes, lengths: Ints, coef: Floats, now_s: float) -> float:
    """How long the decodes that don't run now can wait: min_i (due_i - now - T(the first i by due time))."""
    slack_s = np.inf
    load = Load(0, 0, 0, 0, 0.0)
    for i in range(len(decodes.rows)):
        if decodes.due_s[i] == np.inf:
            break
        if lengths[i] < 0:
            load = with_decode(load, jobs[decodes.rows[i]], 0)
            slack_s = min(slack_s, decodes.due_s[i] - now_s - load_s(coef, load))
    return slack_s


@compiled
def due_now(
    jobs: Jobs, decodes: Decodes, machine: Machine, now_s: float, until_s: float, tau_s: float, drafts: int,
    free_blocks: int,
) -> tuple[Ints, Load, int]:  # fmt: skip
    """Which decodes run in a decode iteration (draft tokens for each, -1: doesn't run), load, free blocks.

    Those run that are due by `until_s`, as long as none is made late by it, and guarantees that are late beyond repair,
    which still deserve to move on. A decode without a free block waits.
    """
    rows, due, coef, block_tokens = decodes.rows, decodes.due_s, machine.coef, machine.block_tokens
    lengths = np.full(len(rows), -1)
    load = Load(0, 0, 0, 0, 0.0)
    for i in range(len(rows)):
        job, due_s = jobs[rows[i]], due[i]
        if due_s > until_s and not (due_s == np.inf and job.guaranteed):
            continue
        length = draft_length(job, drafts)
        blocks = blocks_for(job.context + 1 + length, block_tokens) - blocks_for(job.context, block_tokens)
        if blocks > free_blocks and length:
            length = 0
            blocks = grows(job, block_tokens)
        wider = with_decode(load, job, length)
        took_s = load_s(coef, wider)
        if blocks > free_blocks or wider.new > machine.max_tokens or (took_s > tau_s and now_s + took_s < due_s):
            continue
        lengths[i] = length
        load = wider
        free_blocks -= blocks
    return lengths, load, free_blocks


@compiled
def filled(
    jobs: Jobs, order: Ints, machine: Machine, now_s: float, tau_s: float, load: Load, free_blocks: int
) -> tuple[Load, Ints]:
    """As `fill`, but not so little beyond the sizes that launch fast that it doesn't pay."""
    full, taken = fill(jobs, order, machine, now_s, tau_s, load, free_blocks, machine.max_tokens)
    if goes_just_beyond(full, load.new, machine.sizes, machine.coef):
        full, taken = fill(jobs, order, machine, now_s, tau_s, load, free_blocks, machine.sizes.captured_tokens)
    return full, taken


@compiled
def fill(
    jobs: Jobs, order: Ints, machine: Machine, now_s: float, tau_s: float, load: Load, free_blocks: int, most: int
) -> tuple[Load, Ints]:
    """Give `order` prompt tokens, first to last, while the iteration ends within tau and by the deadlines it serves,
    and has at most so many tokens.

    Returns the iteration's load with them, and the tokens of each.
    """
    coef, block_tokens = machine.coef, machine.block_tokens
    taken = np.zeros(len(order), np.int64)
    for i in range(len(order)):
        job = jobs[order[i]]
        in_block = blocks_for(job.context, block_tokens) * block_tokens - job.context
        fits = token_budget(
            coef, tau_s, load.new, load.context + job.context, load.sequences + 1, load.drafts, load.pairs, job.context
        )  # fmt: skip
        take = int(min(job.prompt_left, fits, most - load.new, free_blocks * block_tokens + in_block))
        if take <= 0:
            continue
        taken[i] = take
        load = with_chunk(load, job.context, take)
        free_blocks -= blocks_for(job.context + take, block_tokens) - blocks_for(job.context, block_tokens)
        left_s = first_due_s(job, now_s + load_s(coef, load)) - now_s
        if take == job.prompt_left and load_s(coef, load) <= left_s:
            tau_s = min(tau_s, left_s)
    return load, taken
