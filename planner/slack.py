"""The slack rule: what one replica runs in its next iteration.

    step   D = T(decodes due within one period of the tightest tier and the iteration before it)
    slack  S = min over decodes with a live SLO of (due_i - now - T(the first i by due time)), and due_1 - now - D
    urgent prefills that can all end within S: a prefill-only iteration, earliest deadline first, tau <= S, and tau <=
        the first deadline in it;
    else a decode iteration, filled up with prefill tokens: B(tau) - n, tau <= the tightest due time. It carries the
        decodes due before the end of the next one like it, 2 (D + tau_d): what is left for later can then wait for a
        full iteration, instead of cutting one short or running alone, as T(decodes, prefill) < T(decodes) + T(prefill).

Which prefills count as urgent is Moore and Hodgson's choice (1968): in deadline order, drop the longest best-effort
one whenever the set is late, so that the fewest miss; guarantees are forced. All others take what is left. Once a
deadline is out of reach, a first token is worth having up to the tolerance. An iteration can't be interrupted, hence
tau never exceeds what a pending deadline leaves, nor, for who arrives next, what `planner.pacing` makes of the time
that such an iteration loses: tau_p without decodes, D + tau_d with them. Memory is checked when a prefill starts: with
it, the residents' peak (`kernels.peak_tokens`) must fit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from slosgate.planner.batch import Batch
from slosgate.planner.commitment import PATIENT
from slosgate.planner.compiling import compiled
from slosgate.planner.jobs import Jobs
from slosgate.planner.kernels import (
    Bools,
    Floats,
    Ints,
    Load,
    blocks_for,
    insert_sorted,
    iteration_s,
    load_s,
    peak_tokens,
    still_to_emit,
    tier_s,
    token_budget,
    token_due_s,
    with_decode,
)
from slosgate.planner.pacing import LONGEST, balanced_s, constant_s, rate_share, rated_s, steepest_term
from slosgate.planner.perf_model import PerfModel
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.speculation import best_drafts, draft_length, mean_acceptance, with_drafts

TOLERANCE = 0.05  # an SLO counts as kept within 5 %, so a decode is lost only beyond that
COALESCE = 0.8  # of the tightest period: how long a decode step may be made by waiting for each other
ROOMY = 0.3  # below this share of the KV memory, drafts need not hurry decodes out of it
HEADROOM = 1.1  # a guarantee's time is kept from best effort with this much to spare
GROWING_BLOCKS = 4  # for every resident, that a guarantee leaves free when it starts although the peak is too high
PLANNED_SHARE = 0.95  # of the KV memory; drafts and whole blocks take more than planned, and running out costs work
QUIET_SHARE = 0.3  # the same for what isn't urgent while an SLO is at stake, less what those hold whose SLO it is
OVERTAKEN_S = 300.0  # so long he starts after all others; clients usually wait 600 s for an answer


def next_batch(
    jobs: Jobs, profile: HardwareProfile, now_s: float, free_blocks: int, patience_s: Floats = PATIENT
) -> Batch:
    """What to run now. Empty only when no job may run: all held, or no free block for any of them.

    `patience_s` is that of the latest arrivals, ascending.
    """
    decode, drafts, prefill, tokens, duration_s = choose(
        jobs,
        coefficients(profile.perf),
        profile.block_tokens,
        profile.max_batched_tokens,
        profile.max_sequences,
        profile.max_drafts,
        now_s,
        free_blocks,
        patience_s,
    )
    return Batch(decode=decode, drafts=drafts, prefill=prefill, tokens=tokens, duration_s=duration_s)


@lru_cache(maxsize=64)
def coefficients(perf: PerfModel) -> Floats:
    """The model's terms as the kernels read them; built once per model."""
    return perf.coefficients()


@compiled
def next_due_s(job: Any, now_s: float) -> float:
    """When a decode's next token is due; inf when nothing is to be won any more, or nothing was asked for.

    Best effort is lost once its first token was late (its due times then count from that token); anything is lost once
    it is behind by a token and the tolerance.
    """
    if not job.guaranteed and job.due_base_s > job.deadline_s + job.tpot_s:
        return np.inf
    due = token_due_s(job, job.generated)
    if now_s > due + TOLERANCE * job.generated * job.tpot_s + job.tpot_s:
        return np.inf
    return due


@compiled
def first_due_s(job: Any, end_s: float) -> float:
    """When a first token that can't come before `end_s` is due: its deadline, or, past that, the last that counts."""
    if job.guaranteed or end_s <= job.deadline_s or job.arrival_s == -np.inf:
        return job.deadline_s  # type: ignore[no-any-return]
    return job.deadline_s + TOLERANCE * (job.deadline_s - job.arrival_s)  # type: ignore[no-any-return]


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
def step_load(jobs: Jobs, decode: Ints, due: Floats, until_s: float) -> Load:
    """A decode step over the rows due by `until_s`, without drafts."""
    load = Load(0, 0, 0, 0)
    for i in range(len(decode)):
        if due[i] <= until_s:
            load = with_decode(load, jobs[decode[i]], 0)
    return load


@compiled
def with_prompt(load: Load, job: Any, sign: int) -> Load:
    """The load with a job's whole remaining prompt added (sign 1) or taken out again (-1)."""
    context = job.context + job.prompt_left
    return Load(load.new + sign * job.prompt_left, load.context + sign * context, load.sequences + sign, load.drafts)


@compiled
def urgent(
    jobs: Jobs,
    prefill: Ints,
    coef: Floats,
    now_s: float,
    slack_s: float,
    step_s: float,
    stretch: float,
    cap_s: float,
) -> Bools:
    """Moore-Hodgson: which of `prefill` (by deadline) to serve in time.

    Prefill work W ends at now + W while the decodes have slack, later at slack + (W - slack) * stretch: `stretch` is
    the wall time per second of prefill work once decodes take their share.
    """
    nobody = Load(0, 0, 0, 0)
    cost = np.empty(len(prefill))
    chosen = np.zeros(len(prefill), np.bool_)
    work = nobody
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        if job.deadline_s == np.inf:
            break
        cost[i] = load_s(coef, with_prompt(nobody, job, 1))
        due_s = first_due_s(job, now_s + cost[i])
        if not job.guaranteed and now_s + cost[i] > due_s:
            continue
        chosen[i] = True
        work = with_prompt(work, job, 1)
        sure = HEADROOM if job.guaranteed else 1.0
        while now_s + finish_s(sure * broken_up_s(coef, cap_s, work), slack_s, step_s, stretch) > due_s:
            longest = -1
            for j in range(i + 1):
                droppable = chosen[j] and not jobs[prefill[j]].guaranteed
                if droppable and (longest < 0 or heavier(jobs, prefill, cost, j, longest)):
                    longest = j
            if longest < 0:
                break
            chosen[longest] = False
            work = with_prompt(work, jobs[prefill[longest]], -1)
    return chosen


@compiled
def most_in_time(
    jobs: Jobs, prefill: Ints, coef: Floats, now_s: float, slack_s: float, step_s: float, stretch: float, cap_s: float
) -> tuple[Bools, float]:
    """Whom to serve in time, and how long to prefill without a break: longer than `cap_s` if that serves more."""
    chosen = urgent(jobs, prefill, coef, now_s, slack_s, step_s, stretch, cap_s)
    longest_s = rated_s(coef, LONGEST)
    hopeful = 0
    for i in range(len(prefill)):
        hopeful += now_s < jobs[prefill[i]].deadline_s < np.inf
    if cap_s < longest_s and chosen.sum() < hopeful:
        more = urgent(jobs, prefill, coef, now_s, slack_s, step_s, stretch, longest_s)
        if more.sum() > chosen.sum():
            return more, longest_s
    return chosen, cap_s


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
        remaining[count] = still_to_emit(job)
        context[count] = job.context + job.prompt_left
        count += 1
    order = np.argsort(-remaining[:count])
    remaining[:count], context[:count] = remaining[:count][order], context[:count][order]
    return remaining, context, count, begun, capacity


@compiled
def startable(
    jobs: Jobs, prefill: Ints, chosen: Bools, block_tokens: int, max_sequences: int, free_blocks: int, now_s: float
) -> tuple[Ints, int]:
    """The prefills that may run, urgent ones first, and how many of them are urgent.

    A prefill that has begun may go on. One that hasn't needs the residents' peak with it to fit into the memory, and
    a free sequence. Most outputs end sooner than planned, so a guarantee, whose memory was counted when it was given,
    also starts where the prompts fit and can grow a little. Best effort leaves room for the guarantees that still
    wait. Behind a guarantee that doesn't fit nobody else starts; behind best effort that doesn't fit, smaller urgent
    ones may.

    What isn't urgent costs others time and memory as long as it runs, and most of all where many have just come and
    more are about to. So while an SLO is at stake it takes little of the memory, and none of as much again as those
    hold whose SLO is live. Where none is, or after `OVERTAKEN_S`, it takes what is free, but for that.
    """
    remaining, context, count, begun, capacity = residents(jobs, block_tokens, free_blocks)
    sure_remaining, sure_context, sure = with_waiting_guarantees(jobs, prefill, remaining, context, count)
    order = np.empty(len(prefill), np.int64)
    n, n_urgent = 0, 0
    blocked, crowded = False, False  # for everybody who comes now; for those who may still be overtaken
    held = context[:count].sum()
    live = live_tokens(jobs)
    spare = PLANNED_SHARE * capacity - live
    quiet = spare if live == 0 and not chosen.any() else QUIET_SHARE * capacity - live
    for wanted in (True, False):
        for i in range(len(prefill)):
            job = jobs[prefill[i]]
            if chosen[i] != wanted:
                continue
            if job.context == 0:
                fresh = not wanted and now_s - job.arrival_s <= OVERTAKEN_S
                if blocked or begun >= max_sequences or (fresh and crowded):
                    continue
                rem, ctx = still_to_emit(job), job.prompt_left
                if job.guaranteed:
                    peak = peak_tokens(remaining, context, count, rem, ctx, block_tokens)
                    fits = peak <= capacity or held + ctx + count * GROWING_BLOCKS * block_tokens <= capacity
                else:
                    peak = peak_tokens(sure_remaining, sure_context, sure, rem, ctx, block_tokens)
                    fits = peak <= (PLANNED_SHARE * capacity if wanted else quiet if fresh else spare)
                # An empty replica never waits: whatever fits alone may start.
                if count and not fits:
                    crowded = not wanted
                    blocked = job.guaranteed or (crowded and not fresh)
                    continue
                insert_sorted(remaining, context, count, rem, ctx)
                count += 1
                held += ctx
                if not job.guaranteed:
                    insert_sorted(sure_remaining, sure_context, sure, rem, ctx)
                    sure += 1
                begun += 1
            order[n] = prefill[i]
            n += 1
        if wanted:
            n_urgent = n
    return order[:n], n_urgent


@compiled
def live_tokens(jobs: Jobs) -> int:
    """KV tokens of those who hold some and can still keep an SLO, their whole prompts included."""
    tokens = 0
    for row in range(len(jobs)):
        job = jobs[row]
        in_time = job.due_base_s <= job.deadline_s + job.tpot_s < np.inf
        if job.context > 0 and not job.held and (job.guaranteed or in_time):
            tokens += job.context + job.prompt_left
    return tokens


@compiled
def with_waiting_guarantees(
    jobs: Jobs, prefill: Ints, remaining: Ints, context: Ints, count: int
) -> tuple[Ints, Ints, int]:
    """The residents and every guaranteed prefill that has not begun, sorted as `residents` are."""
    remaining, context = remaining.copy(), context.copy()
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        if job.guaranteed and job.context == 0:
            insert_sorted(remaining, context, count, still_to_emit(job), job.prompt_left)
            count += 1
    return remaining, context, count


@compiled
def fill(
    jobs: Jobs, order: Ints, coef: Floats, block_tokens: int, max_tokens: int, now_s: float, tau_s: float, load: Load,
    free_blocks: int, taken: Ints,
) -> Load:  # fmt: skip
    """Give `order` prompt tokens, first to last, while the iteration ends within tau and by the deadlines it serves.

    Writes the tokens to `taken` and returns the iteration's load with them.
    """
    for i in range(len(order)):
        job = jobs[order[i]]
        taken[i] = 0
        in_block = blocks_for(job.context, block_tokens) * block_tokens - job.context
        fits = token_budget(coef, tau_s, load.new, load.context + job.context, load.sequences + 1, load.drafts)
        take = int(min(job.prompt_left, fits, max_tokens - load.new, free_blocks * block_tokens + in_block))
        if take <= 0:
            continue
        taken[i] = take
        load = Load(load.new + take, load.context + job.context + take, load.sequences + 1, load.drafts)
        free_blocks -= blocks_for(job.context + take, block_tokens) - blocks_for(job.context, block_tokens)
        left_s = first_due_s(job, now_s + load_s(coef, load)) - now_s
        if take == job.prompt_left and load_s(coef, load) <= left_s:
            tau_s = min(tau_s, left_s)
    return load


@compiled
def due_now(
    jobs: Jobs, decode: Ints, due: Floats, coef: Floats, block_tokens: int, max_tokens: int, now_s: float,
    until_s: float, tau_s: float, drafts: int, pressed: bool, free_blocks: int,
) -> tuple[Ints, Load, int]:  # fmt: skip
    """Which decodes run in a decode iteration (draft tokens for each of `decode`, -1: doesn't run), load, free blocks.

    All run, as long as nobody is made late by it; under pressure only those due by `until_s`, and guarantees that are
    late beyond repair, which still deserve to move on. A decode without a free block waits.
    """
    lengths = np.full(len(decode), -1)
    load = Load(0, 0, 0, 0)
    for i in range(len(decode)):
        job = jobs[decode[i]]
        if pressed and due[i] > until_s and not (due[i] == np.inf and job.guaranteed):
            continue
        length = draft_length(job, drafts)
        blocks = blocks_for(job.context + 1 + length, block_tokens) - blocks_for(job.context, block_tokens)
        if blocks > free_blocks and length:
            length = 0
            blocks = int(job.context % block_tokens == 0)
        wider = with_decode(load, job, length)
        took_s = load_s(coef, wider)
        if blocks > free_blocks or wider.new > max_tokens or (took_s > tau_s and now_s + took_s < due[i]):
            continue
        lengths[i] = length
        load = wider
        free_blocks -= blocks
    return lengths, load, free_blocks


@compiled
def slack_of(jobs: Jobs, decode: Ints, due: Floats, lengths: Ints, coef: Floats, now_s: float) -> float:
    """How long the decodes that don't run now can wait: min_i (due_i - now - T(the first i by due time))."""
    slack_s = np.inf
    load = Load(0, 0, 0, 0)
    for i in range(len(decode)):
        if due[i] == np.inf:
            break
        if lengths[i] < 0:
            load = with_decode(load, jobs[decode[i]], 0)
            slack_s = min(slack_s, due[i] - now_s - load_s(coef, load))
    return slack_s


@compiled
def choose(
    jobs: Jobs, coef: Floats, block_tokens: int, max_tokens: int, max_sequences: int, max_drafts: int, now_s: float,
    free_blocks: int, patience_s: Floats,
) -> tuple[Ints, Ints, Ints, Ints, float]:  # fmt: skip
    """The rule, on rows: (decode, drafts, prefill, tokens, duration)."""
    decode, due, prefill = split(jobs, now_s)
    period = period_s(jobs, decode, due)
    if len(prefill) == 0 and max_drafts == 0 and len(decode) <= min(max_tokens, free_blocks):
        # Mostly, all that runs are decodes which can all be done before the first of them is due: nothing is to weigh.
        duration_s = load_s(coef, step_load(jobs, decode, due, np.inf))
        if len(decode) and duration_s <= due[0] - now_s:
            return decode, np.zeros_like(decode), prefill, prefill, duration_s
    cap_s = balanced_s(coef, patience_s, constant_s(coef, steepest_term(coef)))
    until_s = now_s + period + min(cap_s, period) if period < np.inf else np.inf
    step = step_load(jobs, decode, due, until_s)
    carried = 0
    if memory_share(jobs, block_tokens, free_blocks) < ROOMY:
        carried = carried_tokens(jobs, prefill, coef, period, step, now_s)
    everybody = step if step.sequences else step_load(jobs, decode, due, np.inf)
    drafts = best_drafts(coef, everybody, mean_acceptance(jobs, decode), max_drafts, carried)
    step_s = load_s(coef, with_drafts(step, drafts))
    together_s = min(step_s, COALESCE * period)
    slack_s = slack_of(jobs, decode, due, np.full(len(decode), -1), coef, now_s)
    if len(due):
        slack_s = min(slack_s, due[0] - now_s - together_s)
    stretch = stretch_of(coef, period, step)
    chosen, cap_s = most_in_time(jobs, prefill, coef, now_s, slack_s, step_s, stretch, cap_s)
    order, n_urgent = startable(jobs, prefill, chosen, block_tokens, max_sequences, free_blocks, now_s)
    taken = np.zeros(len(order), np.int64)
    if n_urgent and (len(decode) == 0 or urgent_work_s(jobs, order[:n_urgent], coef, cap_s) <= slack_s):
        spare = free_blocks - growth_blocks(jobs, decode, block_tokens)
        tau_s = min(slack_s, cap_s)
        load = fill(jobs, order, coef, block_tokens, max_tokens, now_s, tau_s, Load(0, 0, 0, 0), spare, taken)
        if load.new > 0:
            return nothing(), nothing(), order[taken > 0], taken[taken > 0], load_s(coef, load)
    tau_s = max(due[0] - now_s, together_s) if len(due) else np.inf
    beside_s = balanced_s(coef, patience_s, step_s)
    until_s = now_s + max(step_s + period, 2.0 * (step_s + beside_s))
    lengths, load, free_blocks = due_now(
        jobs, decode, due, coef, block_tokens, max_tokens, now_s, until_s, tau_s, drafts, n_urgent > 0, free_blocks
    )  # fmt: skip
    runs = lengths >= 0
    tau_s = slack_of(jobs, decode, due, lengths, coef, now_s)
    for i in range(len(decode)):
        if runs[i]:
            tau_s = min(tau_s, due[i] - now_s)
    tau_s = min(tau_s, load_s(coef, load) + beside_s)
    tau_s = max(tau_s, load_s(coef, load))
    load = fill(jobs, order, coef, block_tokens, max_tokens, now_s, tau_s, load, free_blocks, taken)
    return decode[runs], lengths[runs], order[taken > 0], taken[taken > 0], load_s(coef, load)


@compiled
def urgent_work_s(jobs: Jobs, order: Ints, coef: Floats, cap_s: float) -> float:
    """Time to prefill all of `order`."""
    work = Load(0, 0, 0, 0)
    for i in range(len(order)):
        work = with_prompt(work, jobs[order[i]], 1)
    return broken_up_s(coef, cap_s, work)


@compiled
def broken_up_s(coef: Floats, cap_s: float, work: Load) -> float:
    """How long prefill work takes in iterations of `cap_s`."""
    whole_s = load_s(coef, work)
    return whole_s if whole_s <= cap_s else whole_s / rate_share(coef, cap_s)


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
def stretch_of(coef: Floats, period: float, step: Load) -> float:
    """Wall time per second of prefill work when every period carries one decode step."""
    if step.sequences == 0 or period == np.inf:
        return 1.0
    tokens = token_budget(coef, period, step.new, step.context, step.sequences, 0.0)
    work_s = iteration_s(coef, tokens, tokens, 1.0, 0.0) - iteration_s(coef, 0.0, 0.0, 0.0, 0.0)
    return period / work_s if tokens > 0.0 and work_s > 0.0 else np.inf


@compiled
def carried_tokens(jobs: Jobs, prefill: Ints, coef: Floats, period: float, step: Load, now_s: float) -> int:
    """Prompt tokens with a live deadline that a decode step within one period could carry."""
    if step.sequences == 0 or period == np.inf:
        return 0
    room = int(token_budget(coef, period, step.new, step.context, step.sequences, 0.0))
    waiting = 0
    for i in range(len(prefill)):
        job = jobs[prefill[i]]
        if now_s < job.deadline_s < np.inf:
            waiting += job.prompt_left
    return max(0, min(room, waiting))


@compiled
def memory_share(jobs: Jobs, block_tokens: int, free_blocks: int) -> float:
    """Share of the KV memory that jobs hold."""
    held = 0
    for row in range(len(jobs)):
        held += blocks_for(jobs[row].context, block_tokens)
    return held / max(1, held + free_blocks)
