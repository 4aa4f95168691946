"""Rehearsal: what becomes of the requests on a replica if nothing else arrives, iteration by iteration.

The budget model of admission divides time and memory at will. Iterations can't be divided: a request that has just
arrived waits for the one in flight, for the one chosen before it could be seen, and for what the slack rule puts first.
So whatever fits into the budget is rehearsed before it is promised anything. The slack rule is carried out on a copy of
the jobs, in expected tokens, until their first tokens are out. Arrivals are seen when the engine sees them
(`planner.arrivals`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.arrivals import ANNOUNCED_S, awaited
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, blocks_for, iteration_s, pairs_of
from slosgate.planner.launching import CAPTURED, kind_of
from slosgate.planner.machine import Delays, Machine, launching_within
from slosgate.planner.memory import recompute, yielding
from slosgate.planner.rollout import advance, nothing_seen
from slosgate.planner.slack import choose

MOST_ITERATIONS = 32
DRY = 4  # so many iterations without prefill at the end: what still waits then, waits for memory


class Rehearsal(NamedTuple):
    """What a rehearsal showed; arrays by rows of the table."""

    first_token_s: Floats  # absolute; inf when not reached, -inf for rows that had theirs before
    missed: Bools  # a first token or a later one was late
    end_s: float  # absolute end of the last iteration
    stuck: bool  # no prompt was computed at the end, although some waited


class InFlight(NamedTuple):
    """The latest iteration. Absolute seconds."""

    start_s: float
    end_s: float


@compiled
def play(
    jobs: Jobs, machine: Machine, delays: Delays, patience_s: Floats, flight: InFlight, free_blocks: int,
    watched: Bools, until_s: float,
) -> Rehearsal:  # fmt: skip
    """Carry the slack rule out from the end of the iteration in flight, on a table that is written to.

    Goes on while a row of `watched` waits for its first token and could still be in time, at least until `until_s`, for
    `MOST_ITERATIONS` at most. `patience_s` is that of the latest arrivals, ascending.
    """
    seen = nothing_seen(jobs)
    hidden = hide(jobs, flight.start_s - delays.overhead_s)
    rounds, dry = 0, 0
    while rounds < MOST_ITERATIONS and (
        flight.end_s < until_s or waits(jobs, watched, seen.first_token_s, flight.end_s)
    ):
        free_blocks += relieve(jobs, machine.block_tokens, free_blocks)
        batch, begins_s = chosen_next(jobs, hidden, machine, delays, patience_s, flight, free_blocks)
        if len(batch.decode) == 0 and len(batch.prefill) == 0:
            arrived_s = first_hidden_s(jobs, hidden)
            if arrived_s == np.inf:
                dry = DRY
                break
            begins_s = max(flight.end_s, arrived_s + delays.overhead_s)
            flight = InFlight(begins_s, begins_s)
            # Rounding may put the difference before the arrival again.
            reveal(jobs, hidden, max(arrived_s, begins_s - delays.overhead_s))
            continue
        flight = InFlight(begins_s, begins_s + batch.duration_s)
        free_blocks += advance(jobs, batch, flight.end_s, machine.block_tokens, seen, False)
        rounds, dry = rounds + 1, 0 if len(batch.prefill) else dry + 1
    for row in range(len(jobs)):
        seen.missed[row] |= seen.first_token_s[row] == np.inf and jobs[row].deadline_s < flight.end_s
    return Rehearsal(seen.first_token_s, seen.missed, flight.end_s, dry >= DRY)


@compiled
def chosen_next(
    jobs: Jobs, hidden: Bools, machine: Machine, delays: Delays, patience_s: Floats, flight: InFlight, free_blocks: int
) -> tuple[Batch, float]:
    """What follows the iteration in flight, and when it begins: later where an announced request is waited for."""
    known_s = max(flight.start_s, flight.end_s - delays.lead_s[CAPTURED])
    reveal(jobs, hidden, known_s - delays.overhead_s)
    begins_s = flight.end_s
    machine = launching_within(machine, delays, flight.end_s - flight.start_s, len(jobs))
    batch = choose(jobs, machine, begins_s, free_blocks, patience_s)
    if len(batch.decode) == 0 and len(batch.prefill) == 0:
        return batch, begins_s
    if last_awaited_s(jobs, hidden, machine.coef, delays, known_s, begins_s, batch.duration_s) == -np.inf:
        kind = kind_of(batch.decode, batch.drafts, batch.tokens, machine.sizes.captured_tokens)
        chosen_s = max(flight.start_s, flight.end_s - delays.lead_s[kind])
        return batch, max(begins_s, chosen_s + delays.launch_s[kind])
    begins_s = flight.end_s + delays.decide_s
    reveal(jobs, hidden, flight.end_s - delays.overhead_s)
    batch = choose(jobs, machine, begins_s, free_blocks, patience_s)
    awaited_s = last_awaited_s(jobs, hidden, machine.coef, delays, flight.end_s, begins_s, batch.duration_s)
    if awaited_s > -np.inf:
        begins_s = awaited_s + delays.overhead_s + delays.decide_s
        reveal(jobs, hidden, awaited_s)
        batch = choose(jobs, machine, begins_s, free_blocks, patience_s)
    return batch, begins_s


@compiled
def waits(jobs: Jobs, watched: Bools, first_s: Floats, end_s: float) -> bool:
    """Whether a row of `watched` may still get its first token in time."""
    waiting = 0
    for row in range(len(jobs)):
        waiting += watched[row] and first_s[row] == np.inf and end_s <= jobs[row].deadline_s
    return waiting > 0


@compiled
def hide(jobs: Jobs, since_s: float) -> Bools:
    """Hold back the rows that have arrived after `since_s`, which are returned."""
    hidden = np.zeros(len(jobs), np.bool_)
    for row in range(len(jobs)):
        if jobs[row].arrival_s > since_s and not jobs[row].held:
            jobs[row].held = hidden[row] = True
    return hidden


@compiled
def reveal(jobs: Jobs, hidden: Bools, since_s: float) -> None:
    """Let those run that had arrived by then."""
    for row in range(len(jobs)):
        if hidden[row] and jobs[row].arrival_s <= since_s:
            jobs[row].held = hidden[row] = False


@compiled
def last_awaited_s(
    jobs: Jobs, hidden: Bools, coef: Floats, delays: Delays, known_s: float, start_s: float, next_s: float
) -> float:
    """The last arrival that an iteration of `next_s` waits for, instead of starting at `start_s`; -inf for none.

    Only what was announced by `known_s` is waited for, as the plan follower does it.
    """
    last_s = -np.inf
    for row in range(len(jobs)):
        job = jobs[row]
        if not hidden[row] or job.arrival_s + ANNOUNCED_S > known_s:
            continue
        pairs = pairs_of(job.context, job.prompt_left)
        latest_s = job.deadline_s - iteration_s(coef, job.prompt_left, job.prompt_left, 1, 0, pairs)
        if awaited(job.arrival_s + delays.overhead_s, latest_s, start_s, next_s, delays.decide_s):
            last_s = max(last_s, job.arrival_s)
    return last_s


@compiled
def first_hidden_s(jobs: Jobs, hidden: Bools) -> float:
    """The first arrival among those held back; inf without any."""
    first_s = np.inf
    for row in range(len(jobs)):
        if hidden[row]:
            first_s = min(first_s, jobs[row].arrival_s)
    return first_s


@compiled
def relieve(jobs: Jobs, block_tokens: int, free_blocks: int) -> int:
    """Take memory away until every decode finds a block for its next token, as the engine does; blocks set free."""
    freed = 0
    for row in yielding(jobs, np.zeros(len(jobs), np.bool_), block_tokens, free_blocks):
        freed += blocks_for(jobs[row].context, block_tokens)
        recompute(jobs, row)
    return freed
