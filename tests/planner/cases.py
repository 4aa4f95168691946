"""Random tables of jobs for the planner's tests."""

from __future__ import annotations

import numpy as np

from slosgate.engines import profiles
from slosgate.planner.jobs import JobTable

H200 = profiles.load("h200-opt-13b")
TIERS_S = (0.05, 0.1, 0.03)


def random_jobs(
    rng: np.random.Generator, running: int, new: int, *, tiers: int = 3, acceptance: float = 0.0, forced: float = 0.2,
    weights: bool = False,
) -> JobTable:  # fmt: skip
    """Guaranteed decodes midway, and prefills with deadlines of one to twelve times their zero-load TTFT."""
    jobs = JobTable()
    for n in range(running):
        jobs.add(
            f"running-{n}", deadline_s=-1.0, due_base_s=-float(rng.random()), tpot_s=float(rng.choice(TIERS_S[:tiers])),
            prompt_left=0, context=int(rng.integers(20, 900)), generated=int(rng.integers(1, 20)),
            output=int(rng.integers(20, 300)), guaranteed=True, acceptance=acceptance,
        )  # fmt: skip
    for n in range(new):
        prompt = int(rng.integers(20, 1500))
        jobs.add(
            f"new-{n}", deadline_s=float(rng.uniform(1, 12)) * H200.zero_load_ttft_s(prompt),
            tpot_s=float(rng.choice(TIERS_S[:tiers])), prompt_left=prompt, output=int(rng.integers(5, 400)),
            guaranteed=bool(rng.random() < forced), acceptance=acceptance,
            weight=float(rng.integers(1, 5)) if weights else 1.0,
        )  # fmt: skip
    return jobs
