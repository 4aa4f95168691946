"""The budget model of admission: is there enough prefill budget before every deadline, and enough memory?

Decodes first: by time t a decode j with its next token due at e_j has to emit
    k_j(t) = min(left_j, max(0, (t - e_j) / TPOT_j + 1))     tokens.
What is left of each iteration is prefill budget. With iterations of tau = the tightest tier's TPOT, every term i of
the performance model gives, up to a deadline d,
    p_i(d) = (d - now) (1 - b_i / tau) - (a_i + s_i) sum_j k_j(d) - c_i sum_j c_j k_j(d)       seconds
and a set of prefills is feasible when at each of its deadlines the prompts due by then cost no more than that.
An accepted prefill decodes from its deadline on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.compiling import compiled
from planner.jobs import Jobs
from planner.kernels import (
    Floats,
    blocks_for,
    insert_sorted,
    iteration_s,
    peak_tokens,
    still_to_emit,
    tier_s,
    token_due_s,
)


@compiled
def decode_tokens(job: Any, t_s: float, now_s: float) -> float:
    """k_j(t) for a decode, or for a prefill that is accepted (it decodes from its deadline on)."""
    due = job.deadline_s + job.tpot_s if job.prompt_left > 0 else token_due_s(job, job.generated)
    tpot = tier_s(job)
    if tpot == np.inf or t_s < due:
        return 0.0
    return min(float(still_to_emit(job)), (t_s - max(due, now_s)) / tpot + 1.0)


@compiled
def fits(jobs: Jobs, coef: Floats, block_tokens: int, now_s: float, free_blocks: int) -> tuple[bool, float]:
    """(whether all guaranteed jobs keep their SLOs, least time to spare at a deadline)."""
    spare = np.inf
    tau = np.inf
    for row in range(len(jobs)):
        if jobs[row].guaranteed and not jobs[row].held:
            tau = min(tau, tier_s(jobs[row]))
    for row in range(len(jobs)):
        job = jobs[row]
        if job.guaranteed and not job.held and job.prompt_left > 0 and job.deadline_s < np.inf:
            spare = min(spare, spare_at(jobs, coef, now_s, job.deadline_s, tau))
    return spare >= 0.0 and peak_fits(jobs, block_tokens, free_blocks) and sustainable(jobs, coef, tau), spare


@compiled
def spare_at(jobs: Jobs, coef: Floats, now_s: float, deadline_s: float, tau: float) -> float:
    """Time left over at a deadline when everything that is due by then is done; the scarcest term decides."""
    tokens, context, prompts, attended = 0.0, 0.0, 0.0, 0.0
    for row in range(len(jobs)):
        job = jobs[row]
        if not job.guaranteed or job.held:
            continue
        if job.prompt_left > 0 and job.deadline_s <= deadline_s:
            prompts += job.prompt_left
            attended += job.context + job.prompt_left
        emitted = decode_tokens(job, deadline_s, now_s)
        tokens += emitted
        context += emitted * (job.context + job.prompt_left)
    spare = np.inf
    for i in range(len(coef)):
        a, c, s, _, b = coef[i]
        iterations = 1.0 + (deadline_s - now_s) / tau if tokens > 0 else 1.0
        need = b * iterations + a * prompts + c * attended + (a + s) * tokens + c * context
        spare = min(spare, deadline_s - now_s - need)
    return spare


@compiled
def sustainable(jobs: Jobs, coef: Floats, tau: float) -> bool:
    """Whether the decodes of all guaranteed jobs, once they all decode, take no more than the time there is."""
    if tau == np.inf:
        return True
    rate, reads = 0.0, 0.0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.guaranteed and not job.held:
            rate += 1.0 / tier_s(job)
            reads += (job.context + job.prompt_left + 0.5 * still_to_emit(job)) / tier_s(job)
    return iteration_s(coef, rate * tau, reads * tau, rate * tau, 0.0) <= tau


@compiled
def peak_fits(jobs: Jobs, block_tokens: int, free_blocks: int) -> bool:
    """Whether the guaranteed jobs' peak memory fits into what is free plus what the jobs hold."""
    remaining, context = np.empty(len(jobs), np.int64), np.empty(len(jobs), np.int64)
    capacity = free_blocks * block_tokens
    count = 0
    for row in range(len(jobs)):
        job = jobs[row]
        capacity += blocks_for(job.context, block_tokens) * block_tokens
        if job.guaranteed:
            insert_sorted(remaining, context, count, still_to_emit(job), job.context + job.prompt_left)
            count += 1
    return (
        count == 0
        or peak_tokens(remaining, context, count - 1, remaining[count - 1], context[count - 1], block_tokens)
        <= capacity
    )
