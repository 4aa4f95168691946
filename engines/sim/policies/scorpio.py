"""SCORPIO (arXiv 2505.23022, sections 3 and 4): least deadline first, refusal of what can't be in time, credits.

TTFT guard: prompts in deadline order; what can't be in time with those before it is refused, and with the choice of
Moore and Hodgson that is as few as possible. TPOT guard: decodes of loose tiers skip iterations (credits: `min TPOT /
own TPOT` of them run), and a prompt starts only while the virtual batch, in which each decode counts by that share,
keeps the tightest pace. A refused request is served when nothing else is left to do, since an offered request can't be
taken back here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from slosgate.engines.sim.policies.deadlines import (
    Limits,
    carry_out,
    decodes,
    in_time,
    limits,
    period_s,
    prefills,
    ranked_by,
    speed_of,
)
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, Ints, iteration_s, tier_s
from slosgate.planner.profile import HardwareProfile

GOLDEN = 0.6180339887  # spreads the decodes of one tier over the iterations


@dataclass(slots=True)
class Scorpio:
    """Counts iterations, for the credits."""

    budget: int | None = None
    drafts: int = 0
    iterations: int = field(default=0, init=False)

    def __call__(
        self,
        jobs: Jobs,
        profile: HardwareProfile,
        now_s: float,
        free_blocks: int,
        patience_s: Floats,
        within_s: float,
    ) -> Batch:
        self.iterations += 1
        return choose(jobs, limits(profile, free_blocks, self.budget, self.drafts), now_s, self.iterations)


@compiled
def choose(jobs: Jobs, at: Limits, now_s: float, iteration: int) -> Batch:
    """What to run now."""
    rows, due = decodes(jobs, now_s)
    waiting = prefills(jobs)
    speed = speed_of(jobs, rows, due, at, now_s)
    tightest_s = period_s(jobs, rows, due)
    accepted = in_time(jobs, waiting, speed, now_s)
    paced(jobs, waiting, accepted, virtual_batch(jobs, rows, due, tightest_s), tightest_s, at)
    ranked = ranked_by(waiting, accepted, jobs["deadline_s"][waiting])
    runs = credited(jobs, rows, due, tightest_s, iteration)
    return carry_out(jobs, rows[runs], rows[~runs], ranked, at, now_s)


@compiled
def virtual_batch(jobs: Jobs, rows: Ints, due: Floats, tightest_s: float) -> tuple[float, float]:
    """(sequences, context) of the decodes, each counted by the share of iterations in which it runs."""
    sequences, context = 0.0, 0.0
    for i in range(len(rows)):
        share = min(1.0, tightest_s / tier_s(jobs[rows[i]])) if due[i] < np.inf else 1.0
        sequences += share
        context += share * jobs[rows[i]].context
    return sequences, context


@compiled
def paced(jobs: Jobs, rows: Ints, accepted: Bools, batch: tuple[float, float], tightest_s: float, at: Limits) -> None:
    """Refuse prompts that have not begun and whose decodes would break the tightest pace."""
    sequences, context = batch
    for i in range(len(rows)):
        job = jobs[rows[i]]
        if not accepted[i] or job.tpot_s == np.inf:
            continue
        pace_s = min(tightest_s, job.tpot_s)
        share = pace_s / job.tpot_s
        more = sequences + share, context + share * (job.context + job.prompt_left)
        if job.context == 0 and iteration_s(at.machine.coef, more[0], more[1], more[0], at.drafts) > pace_s:
            accepted[i] = False
        else:
            sequences, context = more


@compiled
def credited(jobs: Jobs, rows: Ints, due: Floats, tightest_s: float, iteration: int) -> Bools:
    """Which decodes have a whole credit in this iteration."""
    runs = np.ones(len(rows), np.bool_)
    for i in range(len(rows)):
        tier = tier_s(jobs[rows[i]])
        if due[i] < np.inf and tier > tightest_s:
            credit = iteration * tightest_s / tier + GOLDEN * rows[i]
            runs[i] = np.floor(credit) > np.floor(credit - tightest_s / tier)
    return runs
