"""QoServe (ASPLOS 2026): prompts in an order between deadline and remaining work; every decode in every iteration.

Chunks are as long as the decodes' slack allows, and prompts that can't all be in time are relegated, as in `edf`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slosgate.engines.sim.policies.deadlines import (
    Limits,
    carry_out,
    decodes,
    in_time,
    limits,
    prefills,
    ranked_by,
    speed_of,
    takes_s,
)
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Floats
from slosgate.planner.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class QoServe:
    """`work_weight` says how many seconds of deadline a second of remaining work counts as."""

    budget: int | None = None
    drafts: int = 0
    work_weight: float = 1.0

    def __call__(
        self,
        jobs: Jobs,
        profile: HardwareProfile,
        now_s: float,
        free_blocks: int,
        patience_s: Floats,
        within_s: float,
    ) -> Batch:
        return choose(jobs, limits(profile, free_blocks, self.budget, self.drafts), now_s, self.work_weight)


@compiled
def choose(jobs: Jobs, at: Limits, now_s: float, work_weight: float) -> Batch:
    """What to run now."""
    rows, due = decodes(jobs, now_s)
    waiting = prefills(jobs)
    speed = speed_of(jobs, rows, due, at, now_s)
    chosen = in_time(jobs, waiting, speed, now_s)
    key = np.empty(len(waiting))
    for i in range(len(waiting)):
        job = jobs[waiting[i]]
        # Where decodes leave no time, a token takes infinitely long: only the deadline tells prompts apart then.
        work_s = takes_s(job, speed) if speed.token_s < np.inf else 0.0
        key[i] = job.deadline_s + work_weight * work_s
    return carry_out(jobs, rows, rows[:0], ranked_by(waiting, chosen, key), at, now_s)
