"""JITServe (NSDI 2026): every few iterations, requests are ranked by what they gain per second they have left.

gain = weight x (prompt + 8 output tokens) x min(1, time left / time it takes)^p. What is at the front of the ranking
prefills first, in chunks beside the decodes. A request keeps its score until the next ranking; an arrival gets one at
once. Prompts that can't all be in time are relegated as in `edf`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from slosgate.engines.sim.policies.deadlines import (
    Speed,
    decodes,
    in_time,
    last_s,
    limits,
    prefills,
    ranked_by,
    speed_of,
    takes_s,
)
from slosgate.engines.sim.policies.edf import deferring
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Floats, Ints
from slosgate.planner.profile import HardwareProfile

OUTPUT_WEIGHT = 8.0  # of an output token's gain, in prompt tokens
SAFE = 0.8  # of the time left, that a request should take at most
POWER = 4.0  # how fast the gain falls beyond that


@dataclass(slots=True)
class JitServe:
    """Ranks every `every` iterations."""

    budget: int | None = None
    drafts: int = 0
    every: int = 4
    defer_below: float = 0.0
    calls: int = field(default=0, init=False)
    scores: dict[tuple[float, float], float] = field(default_factory=dict, init=False)  # by (arrival, deadline)

    def __call__(
        self,
        jobs: Jobs,
        profile: HardwareProfile,
        now_s: float,
        free_blocks: int,
        patience_s: Floats,
        within_s: float,
    ) -> Batch:
        at = limits(profile, free_blocks, self.budget, self.drafts)
        rows, due = decodes(jobs, now_s)
        waiting = prefills(jobs)
        speed = speed_of(jobs, rows, due, at, now_s)
        order = waiting, in_time(jobs, waiting, speed, now_s), -self._scored(jobs, waiting, speed, now_s)
        return deferring(jobs, rows, due, ranked_by(*order), at, now_s, self.defer_below)

    def _scored(self, jobs: Jobs, waiting: Ints, speed: Speed, now_s: float) -> Floats:
        """The score of each prefill: of the last ranking, if it was there then."""
        known_by = list(zip(jobs["arrival_s"][waiting].tolist(), jobs["deadline_s"][waiting].tolist(), strict=True))
        fresh = dict(zip(known_by, gain_per_s(jobs, waiting, speed, now_s).tolist(), strict=True))
        self.scores = fresh if self.calls % self.every == 0 else {**fresh, **self.scores}
        self.calls += 1
        return np.array([self.scores[each] for each in known_by])


@compiled
def gain_per_s(jobs: Jobs, rows: Ints, speed: Speed, now_s: float) -> Floats:
    """The score of each prefill; 0 for one that can't be in time."""
    score = np.zeros(len(rows))
    for i in range(len(rows)):
        job = jobs[rows[i]]
        own_s = max(1e-6, takes_s(job, speed))
        left_s = last_s(job) - now_s
        if job.deadline_s < np.inf and own_s <= left_s:
            gain = job.weight * (job.context + job.prompt_left + OUTPUT_WEIGHT * job.output)
            score[i] = gain * min(1.0, SAFE * left_s / own_s) ** POWER / left_s
    return score
