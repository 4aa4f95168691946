"""Which prompts may start: those that the KV memory holds beside all that runs, to the end.

Memory is checked once, when a prefill starts: with it, the residents' peak (`kernels.peak_tokens`) must fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from slosgate.planner.compiling import compiled
from slosgate.planner.dues import in_time, just_missed
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Ints, blocks_for, insert_sorted, peak_tokens, still_to_emit
from slosgate.planner.machine import Machine

GROWING_BLOCKS = 4  # for every resident, that a guarantee leaves free when it starts although the peak is too high
PLANNED_SHARE = 0.95  # of the KV memory; drafts and whole blocks take more than planned, and running out costs work
QUIET_SHARE = 0.3  # the same for what isn't urgent while an SLO is at stake, less what those hold whose SLO it is
OVERTAKEN_S = 300.0  # after so long a request is no longer overtaken; clients usually wait 600 s for an answer


class Residents(NamedTuple):
    """Jobs that hold KV memory; the first `number` entries, most tokens still to emit first."""

    remaining: Ints  # output tokens still to come
    context: Ints  # KV tokens once the prompt is computed
    number: int
    tokens: int  # the sum of `context`


class Room(NamedTuple):
    """KV tokens that the residents' peak may reach with a newcomer."""

    sure: int  # with a guarantee
    urgent: float  # with urgent best effort
    spare: float  # with best effort that has just missed its SLO, or been overtaken long enough
    quiet: float  # with other best effort


@compiled
def startable(
    jobs: Jobs, prefill: Ints, chosen: Bools, machine: Machine, free_blocks: int, now_s: float
) -> tuple[Ints, int]:
    """The prefills that may run, urgent (`chosen`) ones first, and how many of them are urgent.

    A prefill that has begun may go on. One that hasn't needs room in memory, and a free sequence. Best effort leaves
    room for the guarantees that still wait. Behind a guarantee that doesn't fit nothing else starts; behind best effort
    that doesn't fit, smaller urgent prompts may.
    """
    here, begun, capacity = residents(jobs, machine.block_tokens, free_blocks)
    sure = with_waiting_guarantees(jobs, prefill, here) if unpromised_wait(jobs, prefill) else here
    room = room_of(jobs, chosen, capacity)
    remaining, context, number, tokens = here
    block_tokens, max_sequences = machine.block_tokens, machine.max_sequences
    order = np.empty(len(prefill), np.int64)
    n, n_urgent = 0, 0
    blocked, crowded = False, False  # for everything that comes now; for what may still be overtaken
    for wanted in (True, False):
        for i in range(len(prefill)):
            job = jobs[prefill[i]]
            if chosen[i] != wanted:
                continue
            if job.context == 0:
                fresh = not wanted and now_s - job.arrival_s <= OVERTAKEN_S
                quiet = fresh and not just_missed(job, now_s)
                if blocked or begun >= max_sequences or (quiet and crowded):
                    continue
                if job.guaranteed:
                    fits = guarantee_fits(remaining, context, number, tokens, job, room.sure, block_tokens)
                else:
                    limit = room.urgent if wanted else room.quiet if quiet else room.spare
                    fits = peak_with(sure, job, block_tokens) <= limit
                # An empty replica never waits: whatever fits alone may start.
                if number and not fits:
                    crowded = not wanted
                    blocked = job.guaranteed or (crowded and not fresh)
                    continue
                insert_sorted(remaining, context, number, still_to_emit(job), job.prompt_left)
                number, tokens, begun = number + 1, tokens + job.prompt_left, begun + 1
                if not job.guaranteed:
                    sure = joined(sure, job)
            order[n] = prefill[i]
            n += 1
        if wanted:
            n_urgent = n
    return order[:n], n_urgent


@compiled
def residents(jobs: Jobs, block_tokens: int, free_blocks: int) -> tuple[Residents, int, int]:
    """(jobs that hold memory and may run, sequences that have begun, tokens that all of them may fill)."""
    remaining, context = np.empty(len(jobs), np.int64), np.empty(len(jobs), np.int64)
    capacity = free_blocks * block_tokens
    count, begun, tokens = 0, 0, 0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.context == 0:
            continue
        begun += 1
        if job.held:
            continue
        capacity += blocks_for(job.context, block_tokens) * block_tokens
        remaining[count] = still_to_emit(job)
        context[count] = job.context + job.prompt_left
        tokens += context[count]
        count += 1
    order = np.argsort(-remaining[:count])
    remaining[:count], context[:count] = remaining[:count][order], context[:count][order]
    return Residents(remaining, context, count, tokens), begun, capacity


@compiled
def room_of(jobs: Jobs, chosen: Bools, capacity: int) -> Room:
    """How much of the memory newcomers may plan to fill.

    What isn't urgent costs others time and memory as long as it runs, and most of all where many have just come and
    more are about to. So while an SLO is at stake it takes little of the memory, and none of as much again as those
    hold whose SLO is live. Where none is, or after `OVERTAKEN_S`, it takes what is free, but for that. So does what has
    just missed its SLO: it came when there was almost time for it, and its client is not to wait for minutes.
    """
    live = live_tokens(jobs)
    spare = PLANNED_SHARE * capacity - live
    quiet = spare if live == 0 and not chosen.any() else QUIET_SHARE * capacity - live
    return Room(capacity, PLANNED_SHARE * capacity, spare, quiet)


@compiled
def live_tokens(jobs: Jobs) -> int:
    """KV tokens of jobs that hold some and can still keep an SLO, their whole prompts included."""
    tokens = 0
    for row in range(len(jobs)):
        job = jobs[row]
        live = job.guaranteed or (job.deadline_s < np.inf and in_time(job))
        if job.context > 0 and not job.held and live:
            tokens += job.context + job.prompt_left
    return tokens


@compiled
def unpromised_wait(jobs: Jobs, prefill: Ints) -> bool:
    """Whether best effort waits to begin."""
    waiting = 0
    for row in prefill:
        waiting += jobs[row].context == 0 and not jobs[row].guaranteed
    return waiting > 0


@compiled
def with_waiting_guarantees(jobs: Jobs, prefill: Ints, here: Residents) -> Residents:
    """The residents and every guaranteed prefill that has not begun, in arrays of their own."""
    sure = Residents(here.remaining.copy(), here.context.copy(), here.number, here.tokens)
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        if job.guaranteed and job.context == 0:
            sure = joined(sure, job)
    return sure


@compiled
def joined(here: Residents, job: Any) -> Residents:
    """The residents with one more; writes to their arrays."""
    insert_sorted(here.remaining, here.context, here.number, still_to_emit(job), job.prompt_left)
    return Residents(here.remaining, here.context, here.number + 1, here.tokens + job.prompt_left)


@compiled
def peak_with(here: Residents, job: Any, block_tokens: int) -> float:
    """The most KV tokens that the residents and a job that starts now will hold."""
    return peak_tokens(here.remaining, here.context, here.number, still_to_emit(job), job.prompt_left, block_tokens)


@compiled
def guarantee_fits(
    remaining: Ints, context: Ints, number: int, tokens: int, job: Any, capacity: int, block_tokens: int
) -> bool:
    """Whether a guarantee may start beside residents: its memory was counted when it was given.

    Most outputs end sooner than planned, so it also starts where the prompts fit and can grow a little.
    """
    if tokens + job.prompt_left + number * GROWING_BLOCKS * block_tokens <= capacity:
        return True
    return bool(peak_tokens(remaining, context, number, still_to_emit(job), job.prompt_left, block_tokens) <= capacity)
