"""Rolling the slack rule forward with the performance model: what will happen if nothing else arrives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slosgate.planner.batch import Batch
from slosgate.planner.commitment import PATIENT
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Floats, Ints, blocks_for, token_due_s
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.slack import TOLERANCE, next_batch
from slosgate.planner.speculation import expected_tokens


@dataclass(frozen=True, slots=True)
class Rollout:
    """The predicted iterations, by rows of the table they were rolled from."""

    batches: tuple[Batch, ...]
    first_token_s: NDArray[np.float64]  # absolute, per row; inf when not reached, -inf for rows that decode already
    missed: NDArray[np.bool_]  # rows that break their TTFT or TPOT SLO within the horizon
    end_s: float  # absolute end of the last iteration


def roll_forward(
    jobs: Jobs,
    profile: HardwareProfile,
    now_s: float,
    free_blocks: int,
    *,
    patience_s: Floats = PATIENT,
    horizon_s: float = 1.0,
    max_iterations: int = 64,
) -> Rollout:
    """Apply `next_batch` until `horizon_s` has passed, `max_iterations` are planned or nothing runs.

    `jobs` stay as they are.
    """
    jobs = jobs.copy()
    first_token_s = np.where(jobs["prompt_left"] > 0, np.inf, -np.inf)
    missed = np.zeros(len(jobs), np.bool_)
    carry = np.zeros(len(jobs))
    batches: list[Batch] = []
    end_s = now_s
    while end_s < now_s + horizon_s and len(batches) < max_iterations:
        batch = next_batch(jobs, profile, end_s, free_blocks, patience_s)
        if batch.empty:
            break
        end_s += batch.duration_s
        batches.append(batch)
        free_blocks += advance(
            jobs, batch.decode, batch.drafts, batch.prefill, batch.tokens, end_s, profile.block_tokens,
            first_token_s, missed, carry, True,
        )  # fmt: skip
    waiting = (first_token_s == np.inf) & (jobs["deadline_s"] < end_s)
    return Rollout(tuple(batches), first_token_s, missed | waiting, end_s)


@compiled
def advance(
    jobs: Jobs, decode: Ints, drafts: Ints, prefill: Ints, tokens: Ints, end_s: float, block_tokens: int,
    first_token_s: Floats, missed: NDArray[np.bool_], carry: Floats, finishing: bool,
) -> int:  # fmt: skip
    """Apply an iteration that ends at `end_s`, in expectation; returns the blocks set free (negative: taken).

    Fractions of expected tokens are carried over per row. A finished job keeps its row: held, without context; unless
    `finishing`, outputs go on for ever.
    """
    freed = 0
    for i in range(len(prefill)):
        row = prefill[i]
        job = jobs[row]
        freed -= blocks_for(job.context + tokens[i], block_tokens) - blocks_for(job.context, block_tokens)
        job.prompt_left -= tokens[i]
        job.context += tokens[i]
        if job.prompt_left == 0:
            job.generated += 1
            first_token_s[row] = end_s
            missed[row] |= end_s > job.deadline_s
            job.due_base_s = end_s if job.deadline_s == np.inf else max(job.deadline_s, end_s)
            freed += leave_if_done(jobs, row, block_tokens) if finishing else 0
    for i in range(len(decode)):
        row = decode[i]
        job = jobs[row]
        carry[row] += expected_tokens(job.acceptance, drafts[i])
        gained = int(carry[row] + 1e-9)
        if finishing:
            gained = min(gained, max(1, job.output - job.generated))
        carry[row] -= gained
        due = token_due_s(job, job.generated)
        missed[row] |= end_s > due + TOLERANCE * job.generated * job.tpot_s
        freed -= blocks_for(job.context + gained, block_tokens) - blocks_for(job.context, block_tokens)
        job.context += gained
        job.generated += gained
        freed += leave_if_done(jobs, row, block_tokens) if finishing else 0
    return freed


@compiled
def leave_if_done(jobs: Jobs, row: int, block_tokens: int) -> int:
    job = jobs[row]
    if job.generated < job.output:
        return 0
    freed = blocks_for(job.context, block_tokens)
    job.context = 0
    job.held = True
    return freed
