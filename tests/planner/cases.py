"""Random tables of jobs for the planner's tests."""

from __future__ import annotations

import numpy as np

from slosgate.engines import profiles
from slosgate.planner.batch import Batch
from slosgate.planner.jobs import JobTable
from slosgate.planner.rollout import Seen, advance, nothing_seen
from slosgate.planner.slack import next_batch

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


def rolled(jobs: JobTable, *, free_blocks: int, horizon_s: float) -> tuple[list[Batch], Seen]:
    """The slack rule carried out on a copy from time 0 on: the iterations, and what became of each row."""
    rows, batches, end_s = jobs.rows.copy(), list[Batch](), 0.0
    seen = nothing_seen(rows)
    while end_s < horizon_s:
        batch = next_batch(rows, H200, end_s, free_blocks)
        if batch.empty:
            break
        end_s += batch.duration_s
        batches.append(batch)
        free_blocks += advance(rows, batch, end_s, H200.block_tokens, seen, True)
    seen.missed[:] |= (seen.first_token_s == np.inf) & (rows["deadline_s"] < end_s)
    return batches, seen
