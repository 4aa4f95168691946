"""Rolling the slack rule forward with the performance model: what will happen if nothing else arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.arrivals import NO_ARRIVALS
from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import gain, next_late_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, blocks_for
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.slack import next_batch
from slosgate.planner.speculation import expected_tokens


@dataclass(frozen=True, slots=True)
class Rollout:
    """The predicted iterations, by rows of the table they were rolled from."""

    batches: tuple[Batch, ...]
    first_token_s: NDArray[np.float64]  # absolute, per row; inf when not reached, -inf for rows that had theirs before
    missed: NDArray[np.bool_]  # rows that break their TTFT or TPOT SLO within the horizon
    end_s: float  # absolute end of the last iteration


class Seen(NamedTuple):
    """What was seen of each row so far; `advance` writes to it."""

    first_token_s: Floats
    missed: Bools
    carry: Floats  # fractions of expected tokens that have not become a token yet


def roll_forward(
    jobs: Jobs,
    profile: HardwareProfile,
    now_s: float,
    free_blocks: int,
    *,
    patience_s: Floats = NO_ARRIVALS,
    horizon_s: float = 1.0,
    max_iterations: int = 64,
) -> Rollout:
    """Apply `next_batch` until `horizon_s` has passed, `max_iterations` are planned or nothing runs.

    `jobs` stay as they are.
    """
    jobs = jobs.copy()
    seen = nothing_seen(jobs)
    batches: list[Batch] = []
    end_s = now_s
    while end_s < now_s + horizon_s and len(batches) < max_iterations:
        batch = next_batch(jobs, profile, end_s, free_blocks, patience_s)
        if batch.empty:
            break
        end_s += batch.duration_s
        batches.append(batch)
        free_blocks += advance(jobs, batch, end_s, profile.block_tokens, seen, True)
    waiting = (seen.first_token_s == np.inf) & (jobs["deadline_s"] < end_s)
    return Rollout(tuple(batches), seen.first_token_s, seen.missed | waiting, end_s)


@compiled
def nothing_seen(jobs: Jobs) -> Seen:
    """Before the first iteration."""
    first_s = np.empty(len(jobs))
    for row in range(len(jobs)):
        first_s[row] = np.inf if jobs[row].prompt_left > 0 and jobs[row].generated == 0 else -np.inf
    return Seen(first_s, np.zeros(len(jobs), np.bool_), np.zeros(len(jobs)))


@compiled
def advance(jobs: Jobs, batch: Batch, end_s: float, block_tokens: int, seen: Seen, finishing: bool) -> int:
    """Apply an iteration that ends at `end_s`, in expectation; returns the blocks set free (negative: taken).

    A finished job keeps its row: held, without context; unless `finishing`, outputs go on for ever.
    """
    freed = 0
    for i in range(len(batch.prefill)):
        row, tokens = batch.prefill[i], batch.tokens[i]
        job = jobs[row]
        freed -= blocks_for(job.context + tokens, block_tokens) - blocks_for(job.context, block_tokens)
        emits, first = job.prompt_left == tokens, job.generated == 0
        if emits and first:
            seen.first_token_s[row] = end_s
        if emits:
            seen.missed[row] |= end_s > (job.deadline_s if first else next_late_s(job))
        gain(job, tokens, tokens, int(emits), end_s)
        if emits:
            freed += leave_if_done(jobs, row, block_tokens) if finishing else 0
    for i in range(len(batch.decode)):
        row = batch.decode[i]
        job = jobs[row]
        seen.carry[row] += expected_tokens(job.acceptance, batch.drafts[i])
        gained = int(seen.carry[row] + 1e-9)
        if finishing:
            gained = min(gained, max(1, job.output - job.generated))
        seen.carry[row] -= gained
        seen.missed[row] |= end_s > next_late_s(job)
        freed -= blocks_for(job.context + gained, block_tokens) - blocks_for(job.context, block_tokens)
        gain(job, gained, 0, gained, end_s)
        freed += leave_if_done(jobs, row, block_tokens) if finishing else 0
    return freed


@compiled
def leave_if_done(jobs: Jobs, row: int, block_tokens: int) -> int:
    """End a job that has emitted all its output; the blocks set free."""
    job = jobs[row]
    if job.generated < job.output:
        return 0
    freed = blocks_for(job.context, block_tokens)
    job.context = 0
    job.held = True
    return freed
