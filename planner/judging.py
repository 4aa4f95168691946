"""Whether promises on a replica can be kept: by the budget first (`planner.admission`), then rehearsed.

For an arrival both are one compiled call: handing a replica to a kernel takes longer than most of them run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.admission import best_set
from slosgate.planner.budget import Scene
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import first_token_open
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, Ints
from slosgate.planner.machine import Delays, Machine
from slosgate.planner.rehearsal import InFlight, Rehearsal, play

STARTING_SOON = 4  # best-effort requests without hope that are rehearsed with the others before they have begun


class Moment(NamedTuple):
    """A replica when something is decided there."""

    now_s: float
    busy_for_s: float  # how much longer the iteration in flight takes
    running_for_s: float  # how long it has run
    overdue_s: float  # how long it is over, where nothing is known yet of what followed on it
    free_blocks: int


class Judgement(NamedTuple):
    """What becomes of an arrival that is promised its SLO."""

    short_blocks: int  # memory that others must give back before it is rehearsed: what follows is not told then
    kept: bool  # by the budget and in the rehearsal, and no other promise broken
    first_s: float  # absolute, when its first token comes there; inf when that is not reached


@compiled
def judge(jobs: Jobs, machine: Machine, delays: Delays, patience_s: Floats, moment: Moment) -> Judgement:
    """Judge the arrival in the last row."""
    last = len(jobs) - 1
    candidate = np.zeros(len(jobs), np.bool_)
    candidate[last] = True
    scene = Scene(jobs, candidate, moment.now_s + moment.busy_for_s, moment.free_blocks)
    if not best_set(scene, machine)[0][last]:
        return Judgement(0, False, np.inf)
    short = blocks_short(jobs, last, machine.block_tokens, moment.free_blocks)
    if short > 0:
        return Judgement(short, False, np.inf)
    kept, first_s = keeping_promises(jobs, candidate, machine, delays, patience_s, moment)
    return Judgement(0, kept[last], first_s[last])


@compiled
def blocks_short(jobs: Jobs, arrival: int, block_tokens: int, free_blocks: int) -> int:
    """KV blocks that are missing before every guaranteed prefill can start, and that in the row of an arrival; not
    positive when there are enough."""
    short = -free_blocks
    for row in range(len(jobs)):
        if jobs[row].prompt_left > 0 and (jobs[row].guaranteed or row == arrival):
            short += -(-jobs[row].prompt_left // block_tokens)
    return short


@compiled
def keeping_promises(
    jobs: Jobs, candidate: Bools, machine: Machine, delays: Delays, patience_s: Floats, moment: Moment
) -> tuple[Bools, Floats]:
    """(candidates whose promise would be kept and break no other, when first tokens would come), per row."""
    sure, first_s = np.zeros(len(jobs), np.bool_), np.full(len(jobs), np.inf)
    part = taking_part(jobs, candidate, moment.now_s)
    kept, comes_s = kept_among(jobs[part], candidate[part], machine, delays, patience_s, moment)
    sure[part], first_s[part] = kept, comes_s
    return sure, first_s


@compiled
def taking_part(jobs: Jobs, candidate: Bools, now_s: float) -> Ints:
    """Rows to rehearse. Best effort that has nothing to win and nothing to lose takes what others leave; the first of
    them may start soon."""
    matters = np.zeros(len(jobs), np.bool_)
    others, due_s, n = np.empty(len(jobs), np.int64), np.empty(len(jobs)), 0
    for row in range(len(jobs)):
        job = jobs[row]
        live = first_token_open(job, now_s)
        if candidate[row] or job.guaranteed or live or job.context > 0:
            matters[row] = True
        elif not job.held:
            others[n] = row
            due_s[n] = job.deadline_s
            n += 1
    for i in np.argsort(due_s[:n], kind="mergesort")[:STARTING_SOON]:
        matters[others[i]] = True
    return np.flatnonzero(matters)


@compiled
def kept_among(
    jobs: Jobs, candidate: Bools, machine: Machine, delays: Delays, patience_s: Floats, moment: Moment
) -> tuple[Bools, Floats]:
    """The same, for jobs that all take part."""
    given = np.zeros(len(jobs), np.bool_)
    for row in range(len(jobs)):
        given[row] = jobs[row].guaranteed and not jobs[row].held
    shown = with_promises(jobs, given | candidate, given | candidate, machine, delays, patience_s, moment, -np.inf)
    broken = shown.missed & given
    if broken.any():
        watched = np.zeros(len(jobs), np.bool_) if shown.end_s >= moment.now_s else given | candidate
        without = with_promises(jobs, given, watched, machine, delays, patience_s, moment, shown.end_s)
        if (broken & ~without.missed).any():
            return np.zeros(len(jobs), np.bool_), shown.first_token_s
    # What isn't reached within the rehearsal is in time as far as the budget can tell, unless it waits for memory.
    reached = shown.first_token_s < np.inf
    if shown.stuck:
        return candidate & ~shown.missed & reached, shown.first_token_s
    return candidate & ~shown.missed, shown.first_token_s


@compiled
def with_promises(
    jobs: Jobs, promised: Bools, watched: Bools, machine: Machine, delays: Delays, patience_s: Floats, moment: Moment,
    until_s: float,
) -> Rehearsal:  # fmt: skip
    """Rehearse with these promises given."""
    table = jobs.copy()
    for row in range(len(table)):
        table[row].guaranteed = promised[row]
    end_s = moment.now_s + moment.busy_for_s - moment.overdue_s
    flight = InFlight(min(end_s, moment.now_s - moment.running_for_s), end_s)
    return play(table, machine, delays, patience_s, flight, moment.free_blocks, watched, moment.now_s, until_s)
