"""The slack rule: what one replica runs in its next iteration.

    step   D  = T(n, c + n, n) of the decodes that are due within one period of the tightest tier
    slack  S  = min over decodes with a live SLO of (due time of the next token) - now - D
    while S > 0 and prefills can still meet their deadlines: a prefill-only iteration, earliest deadline first,
        tau <= S, and tau <= the first deadline in it;
    else a decode iteration, tau <= the tightest due time, with the prefill tokens that still fit: B(tau) - n.

Which prefills count as urgent is Moore and Hodgson's choice (1968): in deadline order, drop the longest best-effort
one whenever the set is late, so that the fewest miss; guarantees are forced. All others take what is left. An
iteration can't be interrupted, hence tau never exceeds what a pending deadline leaves. Memory is checked when a
prefill starts: with it, the residents' peak (`kernels.peak_tokens`) must fit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from planner.batch import Batch
from planner.compiling import compiled
from planner.jobs import Jobs
from planner.kernels import (
    Bools,
    Floats,
    Ints,
    blocks_for,
    insert_sorted,
    iteration_s,
    peak_tokens,
    still_to_emit,
    tier_s,
    token_budget,
    token_due_s,
)
from planner.perf_model import PerfModel
from planner.profile import HardwareProfile

TOLERANCE = 0.05  # an SLO counts as kept within 5 %, so a decode is lost only beyond that
WORTHWHILE_TOKENS = 64  # a prefill-only iteration below this is not worth its constant cost
FILLER_SHARE = 0.95  # share of the KV memory that prefills beyond the urgent ones may plan for


def next_batch(jobs: Jobs, profile: HardwareProfile, now_s: float, free_blocks: int) -> Batch:
    """What to run now. Empty only when no job may run: all held, or no free block for any of them."""
    decode, drafts, prefill, tokens, duration_s = choose(
        jobs,
        coefficients(profile.perf),
        profile.block_tokens,
        profile.max_batched_tokens,
        profile.max_sequences,
        now_s,
        free_blocks,
    )
    return Batch(decode=decode, drafts=drafts, prefill=prefill, tokens=tokens, duration_s=duration_s)


@lru_cache(maxsize=64)
def coefficients(perf: PerfModel) -> Floats:
    """The model's terms as the kernels read them; built once per model."""
    return perf.coefficients()


@compiled
def next_due_s(job: Any, now_s: float) -> float:
    """When a decode's next token is due, inf when nothing is to be won: no SLO, or best effort that has missed it."""
    due = token_due_s(job, job.generated)
    if now_s > due + TOLERANCE * job.generated * job.tpot_s + job.tpot_s:
        return np.inf
    return due


@compiled
def split(jobs: Jobs, now_s: float) -> tuple[Ints, Floats, Ints]:
    """(rows that decode, by due time; their due times; rows that prefill, by deadline)."""
    decode = np.empty(len(jobs), np.int64)
    due = np.empty(len(jobs), np.float64)
    prefill = np.empty(len(jobs), np.int64)
    deadline = np.empty(len(jobs), np.float64)
    n, m = 0, 0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.held:
            continue
        if job.prompt_left > 0:
            prefill[m] = row
            deadline[m] = job.deadline_s
            m += 1
        else:
            decode[n] = row
            due[n] = next_due_s(job, now_s)
            n += 1
    order = np.argsort(due[:n], kind="mergesort")
    return decode[:n][order], due[:n][order], prefill[:m][np.argsort(deadline[:m], kind="mergesort")]


@compiled
def period_s(jobs: Jobs, decode: Ints, due: Floats) -> float:
    """The tightest tier among the decodes whose SLO is live."""
    tightest = np.inf
    for i in range(len(decode)):
        if due[i] < np.inf:
            tightest = min(tightest, tier_s(jobs[decode[i]]))
    return tightest


@compiled
def step_load(jobs: Jobs, decode: Ints, due: Floats, until_s: float) -> tuple[int, int]:
    """(sequences, context tokens) of a decode step over the rows due by `until_s`."""
    n, context = 0, 0
    for i in range(len(decode)):
        if due[i] <= until_s:
            n += 1
            context += jobs[decode[i]].context + 1
    return n, context


@compiled
def prefill_cost_s(job: Any, coef: Floats, constant_s: float) -> float:
    """What the job's remaining prompt adds to an iteration."""
    return iteration_s(coef, job.prompt_left, job.context + job.prompt_left, 1.0, 0.0) - constant_s


@compiled
def urgent(
    jobs: Jobs, prefill: Ints, coef: Floats, now_s: float, slack_s: float, step_s: float, stretch: float
) -> Bools:
    """Moore-Hodgson: which of `prefill` (by deadline) to serve in time.

    Prefill work W ends at now + W while the decodes have slack, later at slack + (W - slack) * stretch: `stretch` is
    the wall time per second of prefill work once decodes take their share.
    """
    constant_s = iteration_s(coef, 0.0, 0.0, 0.0, 0.0)
    cost = np.empty(len(prefill))
    chosen = np.zeros(len(prefill), np.bool_)
    work_s = constant_s
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        if job.deadline_s == np.inf:
            break
        cost[i] = prefill_cost_s(job, coef, constant_s)
        if not job.guaranteed and now_s + constant_s + cost[i] > job.deadline_s:
            continue
        chosen[i] = True
        work_s += cost[i]
        while now_s + finish_s(work_s, slack_s, step_s, stretch) > job.deadline_s:
            longest = -1
            for j in range(i + 1):
                droppable = chosen[j] and not jobs[prefill[j]].guaranteed
                if droppable and (longest < 0 or heavier(jobs, prefill, cost, j, longest)):
                    longest = j
            if longest < 0:
                break
            chosen[longest] = False
            work_s -= cost[longest]
    return chosen


@compiled
def heavier(jobs: Jobs, prefill: Ints, cost: Floats, j: int, k: int) -> bool:
    """Whether j costs more time per unit of weight than k."""
    return cost[j] * jobs[prefill[k]].weight > cost[k] * jobs[prefill[j]].weight  # type: ignore[no-any-return]


@compiled
def finish_s(work_s: float, slack_s: float, step_s: float, stretch: float) -> float:
    """Wall time until `work_s` of prefill is done (see `urgent`)."""
    if work_s <= slack_s:
        return work_s
    return max(work_s + step_s, max(0.0, slack_s) + (work_s - max(0.0, slack_s)) * stretch)


@compiled
def residents(jobs: Jobs, block_tokens: int, free_blocks: int) -> tuple[Ints, Ints, int, int, int]:
    """(tokens still to be emitted, context) of who holds memory, how many, sequences begun, tokens they may fill."""
    remaining, context = np.empty(len(jobs), np.int64), np.empty(len(jobs), np.int64)
    capacity = free_blocks * block_tokens
    count, begun = 0, 0
    for row in range(len(jobs)):
        job = jobs[row]
        if job.context == 0:
            continue
        begun += 1
        if job.held:
            continue
        capacity += blocks_for(job.context, block_tokens) * block_tokens
        insert_sorted(remaining, context, count, still_to_emit(job), job.context + job.prompt_left)
        count += 1
    return remaining, context, count, begun, capacity


@compiled
def startable(
    jobs: Jobs, prefill: Ints, chosen: Bools, block_tokens: int, max_sequences: int, free_blocks: int
) -> tuple[Ints, int]:
    """The prefills that may run, urgent ones first, and how many of them are urgent.

    A prefill that has begun may go on. One that hasn't needs the residents' peak with it to fit into the memory, and a
    free sequence. Behind a guarantee that doesn't fit nobody else starts; behind best effort that doesn't fit, smaller
    urgent ones may.
    """
    remaining, context, count, begun, capacity = residents(jobs, block_tokens, free_blocks)
    order = np.empty(len(prefill), np.int64)
    n, n_urgent = 0, 0
    blocked = False
    for wanted in (True, False):
        for i in range(len(prefill)):
            job = jobs[prefill[i]]
            if chosen[i] != wanted:
                continue
            if job.context == 0:
                if blocked or begun >= max_sequences:
                    continue
                rem, ctx = still_to_emit(job), job.prompt_left
                share = 1.0 if wanted else FILLER_SHARE
                if peak_tokens(remaining, context, count, rem, ctx, block_tokens) > share * capacity:
                    blocked = job.guaranteed or not wanted
                    continue
                insert_sorted(remaining, context, count, rem, ctx)
                count += 1
                begun += 1
            order[n] = prefill[i]
            n += 1
        if wanted:
            n_urgent = n
    return order[:n], n_urgent


@compiled
def fill(
    jobs: Jobs, order: Ints, coef: Floats, block_tokens: int, max_tokens: int, now_s: float, tau_s: float,
    new: int, context: int, sequences: int, free_blocks: int, taken: Ints,
) -> tuple[int, int, int, float]:  # fmt: skip
    """Give `order` prompt tokens, first to last, while the iteration ends within tau and by the deadlines it serves.

    Writes tokens to `taken` and returns the load with them: (new tokens, context, sequences, tau left to respect).
    """
    for i in range(len(order)):
        job = jobs[order[i]]
        taken[i] = 0
        in_block = blocks_for(job.context, block_tokens) * block_tokens - job.context
        fits = token_budget(coef, tau_s, new, context + job.context, sequences + 1, 0.0)
        take = int(min(job.prompt_left, fits, max_tokens - new, free_blocks * block_tokens + in_block))
        if take <= 0:
            continue
        taken[i] = take
        new += take
        context += job.context + take
        sequences += 1
        free_blocks -= blocks_for(job.context + take, block_tokens) - blocks_for(job.context, block_tokens)
        left_s = job.deadline_s - now_s
        if take == job.prompt_left and iteration_s(coef, new, context, sequences, 0.0) <= left_s:
            tau_s = min(tau_s, left_s)
    return new, context, sequences, tau_s


@compiled
def due_now(
    jobs: Jobs, decode: Ints, due: Floats, coef: Floats, now_s: float, until_s: float, pressed: bool
) -> tuple[Bools, int, int]:
    """Which decodes run in a decode iteration, and its (sequences, context).

    Without urgent prefills all run, as long as nobody is made late by it; else only those due by `until_s`, and
    guarantees that are late beyond repair, which still deserve to move on.
    """
    runs = np.zeros(len(decode), np.bool_)
    n, context = 0, 0
    tau_s = due[0] - now_s if len(due) else np.inf
    for i in range(len(decode)):
        job = jobs[decode[i]]
        if pressed and due[i] > until_s and not (due[i] == np.inf and job.guaranteed):
            continue
        took_s = iteration_s(coef, n + 1, context + job.context + 1, n + 1, 0.0)
        if took_s > tau_s and now_s + took_s < due[i]:
            continue
        runs[i] = True
        n += 1
        context += job.context + 1
    return runs, n, context


@compiled
def choose(
    jobs: Jobs, coef: Floats, block_tokens: int, max_tokens: int, max_sequences: int, now_s: float, free_blocks: int
) -> tuple[Ints, Ints, Ints, Ints, float]:
    """The rule, on rows: (decode, drafts, prefill, tokens, duration)."""
    decode, due, prefill = split(jobs, now_s)
    period = period_s(jobs, decode, due)
    first_due_s = due[0] - now_s if len(due) else np.inf
    n, context = step_load(jobs, decode, due, now_s + period if period < np.inf else -1.0)
    step_s = iteration_s(coef, n, context, n, 0.0) if n else 0.0
    slack_s = first_due_s - step_s
    stretch = stretch_of(coef, period, n, context)
    chosen = urgent(jobs, prefill, coef, now_s, slack_s, step_s, stretch)
    order, n_urgent = startable(jobs, prefill, chosen, block_tokens, max_sequences, free_blocks)
    taken = np.zeros(len(order), np.int64)
    if n_urgent and slack_s > 0.0:
        spare = free_blocks - growth_blocks(jobs, decode, block_tokens)
        new, ctx, seq, _ = fill(jobs, order, coef, block_tokens, max_tokens, now_s, slack_s, 0, 0, 0, spare, taken)
        if new >= WORTHWHILE_TOKENS or (new > 0 and taken[0] == jobs[order[0]].prompt_left):
            return nothing(), nothing(), order[taken > 0], taken[taken > 0], iteration_s(coef, new, ctx, seq, 0.0)
    return decode_iteration(
        jobs, decode, due, order, n_urgent, coef, block_tokens, max_tokens, now_s, step_s, period, free_blocks
    )


@compiled
def decode_iteration(
    jobs: Jobs, decode: Ints, due: Floats, order: Ints, n_urgent: int, coef: Floats, block_tokens: int, max_tokens: int,
    now_s: float, step_s: float, period: float, free_blocks: int,
) -> tuple[Ints, Ints, Ints, Ints, float]:  # fmt: skip
    """Decodes, and the prefill tokens that fit beside them."""
    runs, n, context = due_now(jobs, decode, due, coef, now_s, now_s + step_s + period, n_urgent > 0)
    for i in range(len(decode)):
        if runs[i] and (n > max_tokens or (jobs[decode[i]].context % block_tokens == 0 and free_blocks == 0)):
            runs[i] = False
            n -= 1
            context -= jobs[decode[i]].context + 1
        elif runs[i] and jobs[decode[i]].context % block_tokens == 0:
            free_blocks -= 1
    tau_s = np.inf
    for i in range(len(decode)):
        if runs[i]:
            tau_s = min(tau_s, due[i] - now_s)
        elif due[i] < np.inf:
            tau_s = min(tau_s, due[i] - now_s - step_s)
    tau_s = max(tau_s, iteration_s(coef, n, context, n, 0.0) if n else 0.0)
    taken = np.zeros(len(order), np.int64)
    new, ctx, seq, tau_s = fill(
        jobs, order, coef, block_tokens, max_tokens, now_s, tau_s, n, context, n, free_blocks, taken
    )
    return (
        decode[runs],
        np.zeros(n, np.int64),
        order[taken > 0],
        taken[taken > 0],
        iteration_s(coef, new, ctx, seq, 0.0),
    )


@compiled
def nothing() -> Ints:
    return np.empty(0, np.int64)


@compiled
def growth_blocks(jobs: Jobs, decode: Ints, block_tokens: int) -> int:
    """Blocks that the next decode step of all decodes will ask for."""
    growth = 0
    for i in range(len(decode)):
        growth += jobs[decode[i]].context % block_tokens == 0
    return growth


@compiled
def stretch_of(coef: Floats, period: float, n: int, context: int) -> float:
    """Wall time per second of prefill work when every period carries one step of the decodes."""
    if n == 0:
        return 1.0
    tokens = token_budget(coef, period, n, context, n, 0.0)
    constant_s = iteration_s(coef, 0.0, 0.0, 0.0, 0.0)
    work_s = iteration_s(coef, tokens, tokens, 1.0, 0.0) - constant_s if tokens > 0.0 else 0.0
    return period / work_s if work_s > 0.0 else np.inf
