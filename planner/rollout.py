"""Rolling the slack rule forward with the performance model: what will happen if nothing else arrives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import gain, next_late_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, blocks_for
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.slack import next_batch
from slosgate.planner.speculation import expected_tokens


class Seen(NamedTuple):
    """What was seen of each row so far; `advance` writes to it."""

    first_token_s: Floats  # absolute; inf when not reached, -inf for rows that had theirs before
    missed: Bools  # a first token or a later one was late
    carry: Floats  # fractions of expected tokens that have not become a token yet


def roll_forward(
    jobs: Jobs,
    profile: HardwareProfile,
    now_s: float,
    free_blocks: int,
    *,
    patience_s: Floats,
    horizon_s: float,
    max_iterations: int,
) -> list[Batch]:
    """Apply `next_batch` until `horizon_s` has passed, `max_iterations` are planned or nothing runs.

    `jobs` stay as they are; the iterations are by rows of theirs.
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
    return batches


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
    decode, drafts, prefill, tokens_of, _ = batch
    first_token_s, missed, carry = seen
    freed = 0
    for i in range(len(prefill)):
        row, tokens = prefill[i], tokens_of[i]
        job = jobs[row]
        freed -= blocks_for(job.context + tokens, block_tokens) - blocks_for(job.context, block_tokens)
        emits, first = job.prompt_left == tokens, job.generated == 0
        if emits and first:
            first_token_s[row] = end_s
        if emits:
            missed[row] |= end_s > (job.deadline_s if first else next_late_s(job))
        gain(job, tokens, tokens, int(emits), end_s)
        if emits:
            freed += leave_if_done(jobs, row, block_tokens) if finishing else 0
    for i in range(len(decode)):
        row = decode[i]
        job = jobs[row]
        carry[row] += expected_tokens(job.acceptance, drafts[i])
        gained = int(carry[row] + 1e-9)
        if finishing:
            gained = min(gained, max(1, job.output - job.generated))
        carry[row] -= gained
        missed[row] |= end_s > next_late_s(job)
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
