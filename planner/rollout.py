"""Rolling the slack rule forward with the performance model: what will happen if nothing else arrives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slosgate.planner.batch import Batch
from slosgate.planner.compiling import compiled
from slosgate.planner.dues import gain, next_late_s
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import Bools, Floats, Ints, blocks_for
from slosgate.planner.machine import Machine
from slosgate.planner.slack import choose
from slosgate.planner.speculation import expected_tokens

MOST_TIERS = 16  # that one iteration of a plan tells apart


class Seen(NamedTuple):
    """What was seen of each row so far; `advance` writes to it."""

    first_token_s: Floats  # absolute; inf when not reached, -inf for rows that had theirs before
    missed: Bools  # a first token or a later one was late
    carry: Floats  # fractions of expected tokens that have not become a token yet


class Rolled(NamedTuple):
    """The iterations one after the other: flat, since a plan's many small arrays would cost more than choosing them."""

    new_tokens: Ints  # of each iteration
    duration_s: Floats
    tiers: Floats  # rows of (iteration, TPOT of a tier that decodes, draft tokens)
    prefill: Ints  # rows of (iteration, row of the jobs, prompt tokens)


@compiled
def roll_forward(
    jobs: Jobs, machine: Machine, now_s: float, free_blocks: int, patience_s: Floats, until_s: float, most: int
) -> Rolled:
    """Apply the slack rule to a table of its own until `until_s`, `most` iterations are planned or nothing runs."""
    seen, prompts = nothing_seen(jobs), 0
    for row in range(len(jobs)):
        prompts += jobs[row].prompt_left > 0
    new_tokens, duration_s = np.empty(most, np.int64), np.empty(most)
    tiers, prefill = np.empty((most * MOST_TIERS, 3)), np.empty((most * prompts, 3), np.int64)
    n, n_tiers, n_prefill = 0, 0, 0
    while now_s < until_s and n < most:
        batch = choose(jobs, machine, now_s, free_blocks, patience_s)
        if len(batch.decode) == 0 and len(batch.prefill) == 0:
            break
        new_tokens[n] = len(batch.decode) + batch.drafts.sum() + batch.tokens.sum()
        duration_s[n] = batch.duration_s
        n_tiers = note_tiers(jobs, batch.decode, batch.drafts, tiers, n_tiers, n)
        for i in range(len(batch.prefill)):
            prefill[n_prefill] = n, batch.prefill[i], batch.tokens[i]
            n_prefill += 1
        now_s += batch.duration_s
        free_blocks += advance(jobs, batch, now_s, machine.block_tokens, seen, True)
        n += 1
    return Rolled(new_tokens[:n], duration_s[:n], tiers[:n_tiers], prefill[:n_prefill])


@compiled
def note_tiers(jobs: Jobs, decode: Ints, drafts: Ints, tiers: Floats, count: int, iteration: int) -> int:
    """Write the tiers that decode in an iteration behind the `count` that are there; how many are there then."""
    begin = count
    for i in range(len(decode)):
        at = begin
        while at < count and tiers[at, 1] != jobs[decode[i]].tpot_s:
            at += 1
        if at == begin + MOST_TIERS:
            continue
        tiers[at, 0], tiers[at, 1], tiers[at, 2] = float(iteration), jobs[decode[i]].tpot_s, float(drafts[i])
        count = max(count, at + 1)
    return count


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
