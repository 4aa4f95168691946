"""EDF: earliest deadline first, in chunks that the decodes' slack leaves room for.

Prompts that can't all be in time are relegated, the longest first (Moore and Hodgson, 1968). What a platform team
writes in an afternoon, once requests carry deadlines.
"""

from __future__ import annotations

from dataclasses import dataclass

from slosgate.engines.sim.policies.deadlines import (
    Limits,
    Ranked,
    carry_out,
    decodes,
    in_time,
    limits,
    period_s,
    prefills,
    ranked_by,
    speed_of,
    step_of,
)
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Floats, Ints, load_s
from slosgate.planner.memory import memory_share
from slosgate.planner.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class Edf:
    """Decodes that are not due yet wait for urgent prefills, if less than `defer_below` of the KV memory is in use.

    Waiting, they hold it longer.
    """

    budget: int | None = None
    drafts: int = 0
    defer_below: float = 0.0

    def __call__(
        self,
        jobs: Jobs,
        profile: HardwareProfile,
        now_s: float,
        free_blocks: int,
        patience_s: Floats,
        within_s: float,
    ) -> Batch:
        return choose(jobs, limits(profile, free_blocks, self.budget, self.drafts), now_s, self.defer_below)


@compiled
def choose(jobs: Jobs, at: Limits, now_s: float, defer_below: float) -> Batch:
    """What to run now."""
    rows, due = decodes(jobs, now_s)
    waiting = prefills(jobs)
    chosen = in_time(jobs, waiting, speed_of(jobs, rows, due, at, now_s), now_s)
    return deferring(jobs, rows, due, ranked_by(waiting, chosen, jobs["deadline_s"][waiting]), at, now_s, defer_below)


@compiled
def deferring(
    jobs: Jobs, rows: Ints, due: Floats, ranked: Ranked, at: Limits, now_s: float, defer_below: float
) -> Batch:
    """Prefills in their order beside the decodes, those that are not due yet only if nothing urgent waits."""
    n = len(rows)
    if ranked.wanted > 0 and memory_share(jobs, at.machine.block_tokens, at.free_blocks) < defer_below:
        n = due_soon(jobs, rows, due, at, now_s)
    return carry_out(jobs, rows[:n], rows[n:], ranked, at, now_s)


@compiled
def due_soon(jobs: Jobs, rows: Ints, due: Floats, at: Limits, now_s: float) -> int:
    """How many decodes, by due time, can't wait for an iteration of their tightest tier's length and their own step."""
    step_s = load_s(at.machine.coef, step_of(jobs, rows, at.drafts))
    until_s = now_s + 2.0 * step_s + period_s(jobs, rows, due)
    n = 0
    while n < len(rows) and due[n] <= until_s:
        n += 1
    return n
