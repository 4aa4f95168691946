"""Rehearsal: what becomes of the requests on a replica if nothing else arrives, iteration by iteration.

The budget model of admission divides time and memory at will. Iterations can't be divided: a request that has just
arrived waits for the one in flight, for the one chosen before it could be seen, and for what the slack rule puts first.
So whatever fits into the budget is rehearsed before it is promised anything. The slack rule is carried out on a copy of
the jobs, in expected tokens, until their first tokens are out. Arrivals are seen when the engine sees them
(`planner.arrivals`).

What an engine tells is some milliseconds old. Where the iteration that it told of must be over, the rehearsal begins at
its end, in the past: what was chosen since then, and what that left for the arrival, is found by the same rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.arrivals import ANNOUNCED_S, Coming, Next, awaited_s, bearable_s
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, blocks_for, chunk_s
from slosgate.planner.launching import BEYOND, CAPTURED, begins_s, kind_of, prefill_kind
from slosgate.planner.machine import Delays, Machine, launching_within
from slosgate.planner.memory import recompute, yielding
from slosgate.planner.rollout import advance, nothing_seen
from slosgate.planner.slack import choose

MOST_ITERATIONS = 32
# So long before a choice a request must be there for the rehearsal to count on it, and so long after it another may
# be in the way: ends and ways are only expected. To be there just too late costs a whole iteration.
SURELY_S = 0.001
ROUNDING_S = 1e-6  # of differences between times of day
DRY = 4  # so many iterations without prefill at the end: what still waits then, waits for memory


class Rehearsal(NamedTuple):
    """What a rehearsal showed; arrays by rows of the table."""

    first_token_s: Floats  # absolute; inf when not reached, -inf for rows that had theirs before
    missed: Bools  # a first token or a later one was late
    end_s: float  # absolute end of the last iteration
    stuck: bool  # no prompt was computed at the end, although some waited


class InFlight(NamedTuple):
    """The latest iteration that is known of. Absolute seconds."""

    start_s: float
    end_s: float


@compiled
def play(
    jobs: Jobs, machine: Machine, delays: Delays, patience_s: Floats, flight: InFlight, free_blocks: int,
    watched: Bools, now_s: float, until_s: float,
) -> Rehearsal:  # fmt: skip
    """Carry the slack rule out from the end of the iteration in flight, on a table that is written to.

    Goes on while a row of `watched` waits for its first token and could still be in time, at least until `until_s`, for
    `MOST_ITERATIONS` at most from `now_s` on. `patience_s` is that of the latest arrivals, ascending.
    """
    seen = nothing_seen(jobs)
    # Of what came just before the iteration in flight began, the first choice says whether it could be in it.
    hidden = hide(jobs, flight.start_s - SURELY_S - delays.overhead_s)
    rounds, past, dry = 0, 0, 0
    while rounds < MOST_ITERATIONS and (
        flight.end_s < until_s or waits(jobs, watched, seen.first_token_s, flight.end_s)
    ):
        if flight.end_s < now_s and past == MOST_ITERATIONS:
            flight = InFlight(now_s, now_s)
        free_blocks += relieve(jobs, machine.block_tokens, free_blocks)
        batch, start_s = chosen_next(jobs, hidden, machine, delays, patience_s, flight, free_blocks)
        if len(batch.decode) == 0 and len(batch.prefill) == 0:
            arrived_s = first_hidden_s(jobs, hidden)
            if arrived_s == np.inf:
                dry = DRY
                break
            start_s = max(flight.end_s, arrived_s + delays.overhead_s)
            flight = InFlight(start_s, start_s)
            # Rounding may put the difference before the arrival again.
            reveal(jobs, hidden, max(arrived_s, start_s - delays.overhead_s), 0.0)
            continue
        flight = InFlight(start_s, start_s + batch.duration_s)
        free_blocks += advance(jobs, batch, flight.end_s, machine.block_tokens, seen, False)
        dry = 0 if len(batch.prefill) else dry + 1
        if flight.end_s < now_s:
            past += 1
        else:
            rounds += 1
    for row in range(len(jobs)):
        seen.missed[row] |= seen.first_token_s[row] == np.inf and jobs[row].deadline_s < flight.end_s
    return Rehearsal(seen.first_token_s, seen.missed, flight.end_s, dry >= DRY)


@compiled
def chosen_next(
    jobs: Jobs, hidden: Bools, machine: Machine, delays: Delays, patience_s: Floats, flight: InFlight, free_blocks: int
) -> tuple[Batch, float]:
    """What follows the iteration in flight, and when it begins: later where an announced request is waited for."""
    free_s, captured_tokens = flight.end_s, machine.sizes.captured_tokens
    batch = choose(jobs, machine, free_s, free_blocks, patience_s)
    # It is chosen so early that what is foreseen then can be launched.
    foreseen = max(CAPTURED, kind_of(batch.decode, batch.drafts, batch.tokens, captured_tokens))
    chosen_s = max(flight.start_s, free_s - delays.lead_s[foreseen])
    within_s = free_s - chosen_s
    unsure_s = SURELY_S if flight.end_s > flight.start_s else 0.0
    if reveal(jobs, hidden, chosen_s - delays.overhead_s, unsure_s) or (
        foreseen == BEYOND and delays.launch_s[BEYOND] > within_s
    ):
        within = launching_within(machine, delays, within_s, len(jobs))
        batch = choose(jobs, within, free_s, free_blocks, patience_s)
    if len(batch.decode) == 0 and len(batch.prefill) == 0:
        return batch, free_s
    follows = following(jobs, machine.coef, free_s, free_s, batch.duration_s)
    if last_awaited_s(jobs, hidden, machine, delays, chosen_s - unsure_s, follows) == -np.inf:
        kind = kind_of(batch.decode, batch.drafts, batch.tokens, captured_tokens)
        return batch, begins_s(free_s, chosen_s, delays.launch_s[kind], batch.duration_s)
    chosen_s = free_s
    reveal(jobs, hidden, free_s - delays.overhead_s, 0.0)
    batch = choose(jobs, machine, free_s + delays.decide_s, free_blocks, patience_s)
    follows = following(jobs, machine.coef, free_s, free_s + delays.decide_s, batch.duration_s)
    ready_s = last_awaited_s(jobs, hidden, machine, delays, free_s, follows)
    if ready_s > -np.inf:
        chosen_s = max(free_s, ready_s)
        reveal(jobs, hidden, ready_s - delays.overhead_s + ROUNDING_S, 0.0)
        batch = choose(jobs, machine, chosen_s + delays.decide_s, free_blocks, patience_s)
    kind = kind_of(batch.decode, batch.drafts, batch.tokens, captured_tokens)
    return batch, begins_s(chosen_s + delays.decide_s, chosen_s, delays.launch_s[kind], batch.duration_s)


@compiled
def following(jobs: Jobs, coef: Floats, free_s: float, start_s: float, next_s: float) -> Next:
    """What could start then, as it stands against requests on their way."""
    return Next(free_s, start_s, next_s, bearable_s(jobs, coef, start_s, next_s))


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
def reveal(jobs: Jobs, hidden: Bools, since_s: float, unsure_s: float) -> bool:
    """Let those run that had arrived by then; whether there are any.

    Of arrivals within `unsure_s` of it nobody knows on which side they were: what is promised counts as too late,
    the others as there, since they may stand in the way.
    """
    found = 0
    for row in range(len(jobs)):
        by_s = since_s - unsure_s if jobs[row].guaranteed else since_s + unsure_s
        if hidden[row] and jobs[row].arrival_s <= by_s:
            jobs[row].held = hidden[row] = False
            found += 1
    return found > 0


@compiled
def last_awaited_s(jobs: Jobs, hidden: Bools, machine: Machine, delays: Delays, known_s: float, follows: Next) -> float:
    """When the last of those is ready that what follows waits for; -inf for none.

    Only what is promised and was announced by `known_s` is waited for, as the plan follower does it.
    """
    ready_s, latest_s = np.empty(len(jobs)), np.empty(len(jobs))
    lag_s, own_s = np.empty(len(jobs)), np.empty(len(jobs))
    n = 0
    for row in range(len(jobs)):
        job = jobs[row]
        if not hidden[row] or not job.guaranteed or job.arrival_s + ANNOUNCED_S > known_s:
            continue
        own_s[n] = chunk_s(machine.coef, job.context, job.prompt_left)
        ready_s[n], latest_s[n] = job.arrival_s + delays.overhead_s, job.deadline_s - own_s[n]
        launch_s = delays.launch_s[prefill_kind(job.prompt_left, machine.sizes.captured_tokens)]
        lag_s[n] = max(delays.decide_s, launch_s - own_s[n])
        n += 1
    coming = Coming(ready_s[:n], latest_s[:n], lag_s[:n], own_s[:n])
    return awaited_s(coming, follows, delays.decide_s)


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
